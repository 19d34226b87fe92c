"""How likely a diffusion model finds a given response: LLaDA's bound on its log-likelihood, by sampling.

For a response of L tokens: mask l of them, l uniform in 1..L, the l positions uniform without replacement; sum the log
probability of the masked tokens, times L / l; average. Source: LLaDA (arXiv 2502.09992), its equation for conditional
likelihoods and algorithm 3. The draws are keyed by the seed and the tokens, so a batch never changes them. Where all
2**L - 1 ways to mask are no more than the draws asked for, each is taken once with its probability: the exact value.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from dkv.core.canvas import lay_out
from dkv.core.layer_rules import DENSE
from dkv.core.loop import not_finite
from dkv.core.model import Model, shielded
from dkv.core.packing import pack
from dkv.core.values import as_count, plain
from dkv.errors import PromptError
from dkv.lab.eval.questions import digest
from dkv.layers.transformer import bucket_for
from dkv.tokenizer.tokenizer import token_ids

__all__ = ["Likelihood", "Pair", "masked_log_probability", "maskings"]

_HEAD_ROWS = 512  # rows of logits at a time: with LLaDA's vocabulary a quarter of a gigabyte


@dataclass(frozen=True)
class Pair:
    """Token ids of a prompt, which may be empty, and of a response, which may not."""

    prompt: tuple[int, ...]
    response: tuple[int, ...]

    def __post_init__(self) -> None:
        for name in ("prompt", "response"):
            object.__setattr__(self, name, tuple(map(plain, plain(getattr(self, name)))))


@dataclass(frozen=True)
class Likelihood:
    """The estimator. samples: maskings of each response; batch_size: of those a forward. Raises SettingError."""

    model: Model
    samples: int = 128
    seed: int = 0
    batch_size: int = 32

    def __post_init__(self) -> None:
        for name in ("samples", "batch_size"):
            object.__setattr__(self, name, as_count(name, getattr(self, name)))
        object.__setattr__(self, "seed", plain(self.seed))

    def of(self, pairs: Sequence[Pair]) -> list[float]:
        """The bound for each pair, in nats. Raises PromptError for a pair that the model cannot take."""
        for pair in pairs:
            self._check(pair)
        cases = [(i, *one) for i, pair in enumerate(pairs) for one in maskings(pair, self.samples, self.seed)]
        cases.sort(key=lambda case: len(pairs[case[0]].prompt) + len(pairs[case[0]].response))  # less padding
        sums = [0.0] * len(pairs)
        for first in range(0, len(cases), self.batch_size):
            some = cases[first : first + self.batch_size]
            found = masked_log_probability(self.model, [(pairs[i], masked) for i, masked, _ in some])
            for (i, _, weight), value in zip(some, found, strict=True):
                sums[i] += weight * value
        return sums

    def _check(self, pair: Pair) -> None:
        config = self.model.config
        for name, ids in (("prompt", pair.prompt), ("response", pair.response)):
            token_ids(name, ids, config.vocab)
        if not pair.response:
            raise PromptError("response is empty; give at least one token of text to score")
        if len(pair.prompt) + len(pair.response) > config.context:
            raise PromptError(
                f"prompt of {len(pair.prompt)} tokens and response of {len(pair.response)} exceed the model's context "
                f"of {config.context}; shorten one of them"
            )


def maskings(pair: Pair, samples: int, seed: int) -> Iterator[tuple[tuple[int, ...], float]]:
    """Which places of the response to mask, and the weight of each such sum."""
    length = len(pair.response)
    if 2**length - 1 <= samples:
        for count in range(1, length + 1):
            # 1 / L for the number, 1 / (L choose l) for the places, L / l of the estimator.
            weight = 1 / (math.comb(length, count) * count)
            yield from ((places, weight) for places in combinations(range(length), count))
        return
    drawn = random.Random(digest({"seed": seed, "prompt": pair.prompt, "response": pair.response}))  # noqa: S311
    for _ in range(samples):
        count = drawn.randint(1, length)
        yield tuple(sorted(drawn.sample(range(length), count))), length / count / samples


@shielded()
@torch.inference_mode()
def masked_log_probability(model: Model, cases: Sequence[tuple[Pair, tuple[int, ...]]]) -> list[float]:
    """For each pair with the given places of its response masked: the sum of the log probabilities of those tokens,
    each given all that is not masked. One forward; no cache, since nothing is ever computed twice. Raises RequestError
    where logits are not finite."""
    config, device = model.config, model.device
    canvas = lay_out([(*p.prompt, *p.response) for p, _ in cases], 0, config.mask_id, [0] * len(cases), device)
    row, place = _indices(cases, device)
    target = canvas.tokens[row, place]
    canvas.tokens[row, place] = config.mask_id
    counts = canvas.length.tolist()
    mask = None if min(counts) == max(counts) else canvas.live[:, None, None]
    at = pack(canvas.live, counts, mask, bucket_for(device, model.dtype))
    tokens = torch.nn.functional.pad(canvas.tokens, (0, 1)).view(-1)[at.slot_mapping]
    hidden = model.forward(tokens, at, model.new_kv_cache(*canvas.tokens.shape), DENSE)
    first = canvas.length.cumsum(0) - canvas.length
    reader = first[row] + (place - config.shift).clamp(min=0)
    found = torch.zeros(len(cases), dtype=torch.float64, device=device)
    for part in range(0, len(row), _HEAD_ROWS):
        some = slice(part, part + _HEAD_ROWS)
        log_p = model.logits(hidden[reader[some]]).log_softmax(dim=1, dtype=torch.float32)
        found.index_add_(0, row[some], log_p.gather(1, target[some, None])[:, 0].double())
    values: list[float] = found.tolist()
    if not all(map(math.isfinite, values)):
        raise not_finite(model.dtype)
    return values


def _indices(cases: Sequence[tuple[Pair, tuple[int, ...]]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Rows and positions [M] of everything that is masked."""
    pairs = [(row, len(pair.prompt) + place) for row, (pair, masked) in enumerate(cases) for place in masked]
    both = torch.tensor(pairs, dtype=torch.int64, device=device)
    return both[:, 0], both[:, 1]
