"""A slow second implementation of Dream's decoding, without a cache or with dKV-Cache, to check the engine against.

One sequence at a time, in float64. Dream predicts position j from the row of j - 1, so a position can be left out once
its *successor* is decoded. A row with left padding is the unpadded row: pads are never attended, and positions count
from the first real token; the published program feeds the pads too, but only at steps that feed everything.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from tests.support.choosing import dream_choice, dream_shares, most_confident
from tests.support.network import Table, dream_network
from tests.support.oracle import Trace

__all__ = ["CACHES", "SHIFTS", "DreamOracle"]

CACHES = ("none", "decode", "prefill", "pd")
SHIFTS = ("un", "un_right")


class DreamOracle:
    """The model of a published checkpoint, and the published loop."""

    def __init__(self, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        self.network = dream_network(config, tensors)

    def run(
        self,
        prompt: list[int],
        gen: int,
        steps: int,
        *,
        rule: str = "entropy",
        cache: str = "none",
        refresh: int = 1,
        shift: str = "un",
        top_p: float | None = None,
        top_k: int | None = None,
        eps: float = 1e-3,
    ) -> Trace:
        """Decode `gen` tokens in `steps` steps."""
        mask = self.network.mask
        tokens = [*prompt, *[mask] * gen]
        trace, table = Trace(tokens), _empty(self.network.layers)
        settled: set[int] = set()  # what the step before called settled: left out of this one
        for i, share in enumerate(dream_shares(gen, steps, eps)):
            before, settled = settled, _settled(tokens, mask, len(prompt), shift, i)
            fed = _fed(len(tokens), len(prompt), before, cache, refresh, i)
            logits, fresh = self.network.forward(tokens, fed, table)
            table = _persist(table, fresh, settled, cache, i)
            # Position 0 has no row before it and is its own; no prompt is empty, so it is never asked for.
            choices = {
                p: dream_choice(logits[max(p - 1, 0)], mask, rule, top_p, top_k)
                for p in range(len(tokens))
                if tokens[p] == mask
            }
            trace.play(0, i, fed, choices, most_confident(choices, share), logits)
        return trace


def _empty(layers: int) -> Table:
    return [{} for _ in range(layers)]


def _settled(tokens: list[int], mask: int, prompt: int, shift: str, step: int) -> set[int]:
    """S_i: the positions whose prediction nobody needs any more, at the start of step i."""
    last = len(tokens) - 1
    if step == 0:
        return set(range(prompt - 1))  # the last of the prompt predicts the first of the answer
    done = [token != mask for token in tokens]
    if shift == "un":
        # Published as a roll to the left: the last position takes the state of the first.
        return {p for p in range(last + 1) if done[(p + 1) % len(tokens)]}
    if shift == "un_right":
        inner = {p for p in range(last) if done[p] and done[p + 1]}
        return inner | {last} if last - 1 in inner else inner
    raise ValueError(shift)


def _fed(length: int, prompt: int, settled: set[int], cache: str, refresh: int, step: int) -> list[int]:
    """F_i, of `settled` = S_{i-1}."""
    everything, answer = list(range(length)), list(range(prompt - 1, length))
    if cache == "none" or step == 0:
        return everything
    if cache == "prefill":
        return answer
    if step % refresh == 0:
        return {"decode": everything, "pd": answer}[cache]
    return [p for p in everything if p not in settled]


def _persist(table: Table, fresh: Table, settled: set[int], cache: str, step: int) -> Table:
    """The table after step i, of `settled` = S_i."""
    if cache == "none":
        return _empty(len(table))
    if cache == "prefill" and step > 0:
        return table
    merged = [{**old, **new} for old, new in zip(table, fresh, strict=True)]
    # PD differs in what is fed alone: the prompt is in every S_i and never fed again, so it stays as step 0 stored it.
    return [{p: pair for p, pair in layer.items() if p in settled} for layer in merged]
