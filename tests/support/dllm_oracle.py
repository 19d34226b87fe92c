"""A slow second implementation of LLaDA's and Dream's decoding with dLLM-Cache, to check the engine against.

One sequence at a time, in float64. The prompt and the answer are refreshed at intervals counted in forwards of a
branch; in between, each layer recomputes the rows of the answer whose values changed most, and adds what it stored of
the others to the stream that comes in.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from tests.support.choosing import Choice, dream_choice, dream_shares, even_shares, llada_choice, most_confident
from tests.support.network import Network

__all__ = ["Branch", "Dllm", "DllmForward", "DllmOracle", "DllmStep", "DllmTrace", "Selection"]


@dataclass(frozen=True)
class Dllm:
    """The settings: kp, kr and cfg_interval in forwards, rho the share recomputed; whether layer 0 is always computed
    in full (published from 2025-07-06 on). The jitter is random noise on the similarities, to see what hangs on ties.
    """

    kp: int = 1
    kr: int = 1
    rho: float = 0.0
    cfg_interval: int = 1
    first_layer_full: bool = True
    similarity: str = "cosine"
    jitter: float = 0.0
    jitter_seed: int = 0


@dataclass(frozen=True)
class Selection:
    """Which rows of the answer one layer recomputed, at which forward of the branch (from 1), and by what margin."""

    branch: str
    forward: int
    layer: int
    picked: list[int]
    margin: float


@dataclass
class DllmForward:
    """The logits [T, V] of the conditional forward as the model gave them; those [G, V] that were read for the answer
    (guided, and of Dream shifted); the stream [T, d] after each layer; and the published probe, which is taken of the
    conditional forward: before guidance, after the shift."""

    logits: Tensor
    read: Tensor
    streams: list[Tensor]
    probe: list[float]


@dataclass
class DllmStep:
    """One step of the loop: what was decoded (position in the answer: token), how surely, the confidence of every
    candidate, and what the model gave."""

    block: int
    index: int
    decoded: dict[int, int]
    confidence: dict[int, float]
    weighed: dict[int, float]
    forward: DllmForward


@dataclass
class DllmTrace:
    """A whole run: the tokens of the answer, a letter per forward of each branch, and what was recomputed. `margin` is
    the smallest by which a token or position was chosen, `tie` a row to recompute; `mask_won` says that the published
    loop would have decoded a mask and gone another way."""

    tokens: list[int]
    refresh: str
    refresh_uncond: str
    selected: list[Selection]
    steps: list[DllmStep] = field(default_factory=list)
    margin: float = math.inf
    mask_won: bool = False

    @property
    def tie(self) -> float:
        return min((s.margin for s in self.selected), default=math.inf)


class Branch:
    """The caches and the clock of one branch. What was never computed is NaN, so reading it would show."""

    def __init__(self, network: Network, settings: Dllm, name: str, prompt: int, length: int) -> None:
        self.network, self.settings, self.name = network, settings, name
        self.prompt, self.length, self.clock = list(range(prompt)), length, 0
        self.answer = list(range(prompt, length))
        keys = network.width // network.heads * network.groups
        widths = {"k": keys, "v": keys, "attn": network.width, "mlp": network.width}
        self.store = [
            {part: torch.full((length, width), math.nan, dtype=torch.float64) for part, width in widths.items()}
            for _ in range(network.layers)
        ]
        self.letters = ""
        self.selected: list[Selection] = []
        self.noise = torch.Generator().manual_seed(settings.jitter_seed)

    def forward(self, tokens: list[int]) -> tuple[Tensor, list[Tensor]]:
        """Logits [T, V] and the stream [T, d] after each layer."""
        self.clock += 1
        self.letters += {(True, True): "f", (False, True): "r", (True, False): "p", (False, False): "a"}[self._due()]
        x, streams = self.network.embed(tokens), []
        for layer in range(self.network.layers):
            x = self._layer(layer, x)
            streams.append(x)
        return self.network.logits(x), streams

    def _due(self) -> tuple[bool, bool]:
        """Whether the prompt and the answer are refreshed; an interval of -1 always is, as in the published program."""
        return (self.clock - 1) % self.settings.kp == 0, (self.clock - 1) % self.settings.kr == 0

    def _layer(self, layer: int, x: Tensor) -> Tensor:
        net, store = self.network, self.store[layer]
        h = net.norm(x, f"{layer}.attn_norm")
        prompt_due, answer_due = self._due()
        if layer == 0 and self.settings.first_layer_full:
            prompt_due = answer_due = True
        rows = [*(self.prompt if prompt_due else []), *(self.answer if answer_due else [])]
        store["k"][rows] = net.linear(h[rows], f"{layer}.k")
        store["v"][rows] = net.linear(h[rows], f"{layer}.v")
        if not answer_due and 0 < self.settings.rho <= 1:
            rows += self._verify(layer, h)
        if rows:
            store["attn"][rows] = net.attend(layer, h[rows], rows, store["k"], store["v"])
        x = x + store["attn"]
        if rows:
            store["mlp"][rows] = net.mlp(layer, x[rows])
        return x + store["mlp"]

    def _verify(self, layer: int, h: Tensor) -> list[int]:
        """Replace all values of the answer, and the keys of the rows whose values changed most; tell which."""
        net, store = self.network, self.store[layer]
        values = net.linear(h[self.answer], f"{layer}.v")
        scores = self._similar(values, store["v"][self.answer])
        store["v"][self.answer] = values
        count = int(len(self.answer) * self.settings.rho)
        ranked = sorted(range(len(scores)), key=lambda j: (scores[j], j))
        margin = scores[ranked[count]] - scores[ranked[count - 1]] if 0 < count < len(ranked) else math.inf
        picked = sorted(ranked[:count])
        self.selected.append(Selection(self.name, self.clock, layer, picked, margin))
        rows = [self.answer[j] for j in picked]
        store["k"][rows] = net.linear(h[rows], f"{layer}.k")
        return rows

    def _similar(self, new: Tensor, old: Tensor) -> list[float]:
        if self.settings.similarity == "cosine":
            scores = torch.cosine_similarity(new, old, dim=1, eps=1e-8)
        elif self.settings.similarity == "l2":
            scores = -(new - old).norm(dim=1)
        else:
            raise ValueError(self.settings.similarity)
        noise = torch.randn(len(scores), generator=self.noise, dtype=torch.float64)
        return [float(s) for s in scores + self.settings.jitter * noise]


def _probe(logits: Tensor) -> list[float]:
    """Mean size of the answer's logits [G, V], and those of token 0 at the first, the middle and the last position."""
    length = len(logits)
    return [float(logits.abs().mean()), *logits[[0, length // 2, length - 1], 0].tolist()]


class _Guided:
    """A conditional branch and, with guidance, one whose prompt is masked, with what it last gave to the sum."""

    def __init__(self, network: Network, settings: Dllm, prompt: int, length: int, scale: float) -> None:
        self.mask, self.prompt, self.scale, self.interval = network.mask, prompt, scale, settings.cfg_interval
        self.cond = Branch(network, settings, "no_cfg", prompt, length)
        self.uncond = Branch(network, settings, "cfg", prompt, length)
        self.residual = torch.zeros(())

    def forward(self, tokens: list[int]) -> tuple[Tensor, Tensor, list[Tensor]]:
        """The conditional logits, those that guide [T, V], and the streams of the conditional branch."""
        logits, streams = self.cond.forward(tokens)
        if not self.scale:
            return logits, logits, streams
        step = self.cond.clock
        if (step - 1) % self.interval == 0 or step <= 5:
            blind, _ = self.uncond.forward([self.mask] * self.prompt + tokens[self.prompt :])
            self.residual = logits - blind
        return logits, logits + self.scale * self.residual, streams


class DllmOracle:
    """A published network (`llada_network` or `dream_network`) and the published loops; cache None is no cache."""

    def __init__(self, network: Network) -> None:
        self.network = network

    def llada(
        self,
        prompt: list[int],
        gen: int,
        block_length: int,
        steps: int,
        cache: Dllm | None = None,
        cfg_scale: float = 0.0,
    ) -> DllmTrace:
        """Low-confidence remasking, block by block; the caches and clocks do not know of blocks."""
        run = _Run(self.network, prompt, gen, cache, cfg_scale)
        per_block = steps // (gen // block_length)
        for block in range(gen // block_length):
            end = (block + 1) * block_length
            shares = even_shares(sum(j < end for j in run.masked()), per_block)
            for i, share in enumerate(shares):
                forward = run.forward(range(len(prompt), len(run.tokens)))
                choices = {j: llada_choice(forward.read[j], self.network.mask) for j in run.masked() if j < end}
                run.play(block, i, choices, share, forward)
        return run.trace()

    def dream(
        self,
        prompt: list[int],
        gen: int,
        steps: int,
        cache: Dllm | None = None,
        *,
        rule: str = "entropy",
        top_p: float | None = None,
        top_k: int | None = None,
        eps: float = 1e-3,
    ) -> DllmTrace:
        """No blocks; a position is predicted from the row before it, so the first of the answer from the prompt's last
        row, which is as old as the last refresh of the prompt."""
        run = _Run(self.network, prompt, gen, cache, 0.0)
        for i, share in enumerate(dream_shares(gen, steps, eps)):
            forward = run.forward(range(len(prompt) - 1, len(run.tokens) - 1))
            choices = {j: dream_choice(forward.read[j], self.network.mask, rule, top_p, top_k) for j in run.masked()}
            run.play(0, i, choices, share, forward)
        return run.trace()


class _Run:
    """A sequence being decoded."""

    def __init__(self, network: Network, prompt: list[int], gen: int, cache: Dllm | None, scale: float) -> None:
        self.mask, self.prompt = network.mask, len(prompt)
        self.tokens = [*prompt, *[self.mask] * gen]
        # Refreshing everything at every forward computes everything afresh.
        self.guide = _Guided(network, Dllm() if cache is None else cache, len(prompt), len(self.tokens), scale)
        self.steps: list[DllmStep] = []
        self.margin, self.mask_won = math.inf, False

    def masked(self) -> list[int]:
        """Masked positions, counted from the start of the answer."""
        return [j for j, token in enumerate(self.tokens[self.prompt :]) if token == self.mask]

    def forward(self, rows: range) -> DllmForward:
        """Run the model; `rows` are those from which the answer is predicted."""
        logits, guided, streams = self.guide.forward(self.tokens)
        return DllmForward(logits, guided[list(rows)], streams, _probe(logits[list(rows)]))

    def play(self, block: int, index: int, choices: dict[int, Choice], share: int, forward: DllmForward) -> None:
        """Decode the most confident and note the step."""
        decision = most_confident(choices, share)
        self.margin = min(self.margin, decision.margin)
        self.mask_won |= decision.mask_won
        decoded = {j: choices[j].token for j in decision.taken}
        for j, token in decoded.items():
            self.tokens[self.prompt + j] = token
        weighed = {j: choice.confidence for j, choice in choices.items()}
        certain = {j: weighed[j] for j in decoded}
        self.steps.append(DllmStep(block, index, decoded, certain, weighed, forward))

    def trace(self) -> DllmTrace:
        cond, uncond = self.guide.cond, self.guide.uncond
        selected = sorted([*cond.selected, *uncond.selected], key=lambda s: (s.forward, s.branch == "cfg", s.layer))
        answer = self.tokens[self.prompt :]
        return DllmTrace(answer, cond.letters, uncond.letters, selected, self.steps, self.margin, self.mask_won)
