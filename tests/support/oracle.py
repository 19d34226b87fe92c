"""A slow second implementation of LLaDA decoding with dKV-Cache, to check the engine against.

One sequence at a time, in float64, with an explicit table of keys and values before rotation.
It follows the description of the published program: for each block of S steps, F_i is fed at step i, attention reads
fresh keys for F_i and the table for the rest, and then `write_i` is persisted. It shares no code with the package.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from tests.support.choosing import Choice, Decision, even_shares, llada_choice, most_confident
from tests.support.network import Table, llada_network

__all__ = ["Oracle", "Played", "Trace"]


@dataclass
class Played:
    """One step: the block, the step in it, what was fed, what was decoded and how surely, the logits of the fed rows
    (before any shift), and the confidence of every candidate."""

    block: int
    index: int
    fed: list[int]
    decoded: dict[int, int]
    confidence: dict[int, float]
    logits: dict[int, Tensor]
    weighed: dict[int, float] = field(default_factory=dict)


@dataclass
class Trace:
    """A whole run: its steps, the final tokens, the smallest margin by which a choice was made, and whether the
    published loop would have decoded a mask and gone another way."""

    tokens: list[int]
    steps: list[Played] = field(default_factory=list)
    margin: float = float("inf")
    mask_won: bool = False

    def play(
        self,
        block: int,
        index: int,
        fed: list[int],
        choices: Mapping[int, Choice],
        decision: Decision,
        logits: dict[int, Tensor],
    ) -> None:
        """Decode what was decided and note the step."""
        self.margin = min(self.margin, decision.margin)
        self.mask_won |= decision.mask_won
        decoded = {p: choices[p].token for p in decision.taken}
        for p, token in decoded.items():
            self.tokens[p] = token
        weighed = {p: choice.confidence for p, choice in choices.items()}
        confidence = {p: weighed[p] for p in decoded}
        self.steps.append(Played(block, index, fed, decoded, confidence, logits, weighed))


class Oracle:
    """The model of a published checkpoint, and the three published loops."""

    def __init__(self, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        self.network = llada_network(config, tensors)
        self.mask = self.network.mask
        self.forward = self.network.forward

    def confident(
        self, prompt: list[int], gen: int, block_length: int, steps: int, refresh: int | None = None, delay: int = 1
    ) -> Trace:
        """Low-confidence remasking: vanilla (refresh None) or dKV-Cache-Decode."""
        tokens = [*prompt, *[self.mask] * gen]
        trace, length, per_block = Trace(tokens), len(tokens), steps // (gen // block_length)
        open_positions = set(range(len(prompt), length))
        for block in range(gen // block_length):
            end = len(prompt) + (block + 1) * block_length
            shares = even_shares(sum(p < end for p in open_positions), per_block)
            table: Table = [{} for _ in range(self.network.layers)]
            decoded_at_start: list[set[int]] = []
            for i in range(per_block):
                decoded_at_start.append(set(range(length)) - open_positions)
                if refresh is None or i < 2 or i % refresh == 0:
                    fed = list(range(length))
                else:
                    settled = decoded_at_start[i - delay] if i >= delay else set()
                    fed = [p for p in range(length) if p not in settled]
                logits, fresh = self.forward(tokens, fed, table)
                # Only what is decoded by now is kept; with a delay of nought, as the rows of the next step leave out
                # what this step decodes, it is kept as it was while masked.
                table = [{**old, **new} for old, new in zip(table, fresh, strict=True)]
                choices = {p: llada_choice(logits[p], self.mask) for p in fed if p in open_positions and p < end}
                decision = most_confident(choices, shares[i])
                trace.play(block, i, fed, choices, decision, logits)
                open_positions -= set(decision.taken)
                if delay == 1:
                    kept = decoded_at_start[i] if i else set()
                    table = [{p: kv for p, kv in layer.items() if p in kept} for layer in table]
        return trace

    def greedy(
        self,
        prompt: list[int],
        gen: int,
        block_length: int,
        steps: int,
        order: list[list[int]],
        refresh: int | None = None,
        window: int = 0,
    ) -> Trace:
        """Random remasking in a known order: without a cache (refresh None) or dKV-Cache-Greedy."""
        tokens = [*prompt, *[self.mask] * gen]
        trace, length, per_block = Trace(tokens), len(tokens), steps // (gen // block_length)
        open_positions = set(range(len(prompt), length))
        for block in range(gen // block_length):
            shares = even_shares(block_length, per_block)
            cuts = [sum(shares[:i]) for i in range(per_block + 1)]
            turns = [order[block][cuts[i] : cuts[i + 1]] for i in range(per_block)]
            table: Table = [{} for _ in range(self.network.layers)]
            candidates: list[int] = []
            for i, now in enumerate(turns):
                full = refresh is None or i % refresh == 0
                fed = list(range(length)) if full else sorted(candidates)
                logits, fresh = self.forward(tokens, fed, table)
                table = [{**old, **new} for old, new in zip(table, fresh, strict=True)]
                choices = {p: llada_choice(logits[p], self.mask) for p in now}
                if i + 1 < per_block:
                    candidates = self._candidates(turns[i + 1], now, open_positions, length, window)
                trace.play(block, i, fed, choices, most_confident(choices, len(now)), logits)
                open_positions -= set(now)
        return trace

    @staticmethod
    def _candidates(soon: list[int], now: list[int], masked: set[int], length: int, window: int) -> list[int]:
        """Next to be decoded, just decoded, and a window that walks outward from each of the next, left first."""
        taken = [*soon, *(p for p in now if p not in soon)]
        for centre in soon:
            added = 0
            for distance in range(1, length):
                for p in (centre - distance, centre + distance):
                    if added < window and 0 <= p < length and p not in taken and p in masked:
                        taken.append(p)
                        added += 1
        return taken
