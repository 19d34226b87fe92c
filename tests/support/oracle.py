"""A slow second implementation of LLaDA decoding with dKV-Cache, to check the engine against.

One sequence at a time, in float64, with an explicit table of keys and values before rotation.
It follows the description of the published program: for each block of S steps, F_i is fed at step i, attention reads
fresh keys for F_i and the table for the rest, and then `write_i` is persisted. It shares no code with the package.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

__all__ = ["Oracle", "Played", "Trace"]

Table = list[dict[int, tuple[Tensor, Tensor]]]
"""Per layer: position to (key before rotation, value)."""


@dataclass
class Played:
    """One step: the block, the step in it, what was fed, what was decoded, and the logits of the fed rows."""

    block: int
    index: int
    fed: list[int]
    decoded: dict[int, int]
    confidence: dict[int, float]
    logits: dict[int, Tensor]


@dataclass
class Trace:
    """A whole run: its steps, the final tokens, and the smallest margin by which a choice was made."""

    tokens: list[int]
    steps: list[Played] = field(default_factory=list)
    margin: float = float("inf")

    def note(self, margin: float) -> None:
        self.margin = min(self.margin, margin)


class Oracle:
    """The model of a published checkpoint, and the three published loops."""

    def __init__(self, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        self.config = config
        self.w = {name.removeprefix("model.transformer."): t.double() for name, t in tensors.items()}
        self.mask: int = config["mask_token_id"]
        self.head_dim: int = config["d_model"] // config["n_heads"]

    # The model -----------------------------------------------------------------------------------------------------

    def _norm(self, x: Tensor, name: str) -> Tensor:
        scaled: Tensor = x / (x.square().mean(dim=-1, keepdim=True) + self.config["rms_norm_eps"]).sqrt() * self.w[name]
        return scaled

    def _rotate(self, heads: Tensor, at: list[int]) -> Tensor:
        """heads [N, H, D] at positions `at`."""
        half = self.head_dim // 2
        rate = self.config["rope_theta"] ** (-torch.arange(half, dtype=torch.float64) / half)
        angle = (torch.tensor(at)[:, None] * rate)[:, None]
        low, high = heads[..., :half], heads[..., half:]
        return torch.cat((low * angle.cos() - high * angle.sin(), high * angle.cos() + low * angle.sin()), dim=-1)

    def forward(self, tokens: list[int], fed: list[int], table: Table) -> tuple[dict[int, Tensor], Table]:
        """Logits of the fed positions, and their fresh keys and values per layer."""
        if not fed:
            return {}, [{} for _ in table]
        x, fresh = self.w["wte.weight"][[tokens[p] for p in fed]], []
        for layer, stored in enumerate(table):
            at = f"blocks.{layer}."
            h = self._norm(x, at + "attn_norm.weight")
            keys, values = h @ self.w[at + "k_proj.weight"].T, h @ self.w[at + "v_proj.weight"].T
            fresh.append({p: (keys[n], values[n]) for n, p in enumerate(fed)})
            # A KeyError here would mean that attention reads what nobody computed.
            everything = [fresh[layer][p] if p in fresh[layer] else stored[p] for p in range(len(tokens))]
            mixed = self._attend(h @ self.w[at + "q_proj.weight"].T, fed, everything)
            x = x + mixed @ self.w[at + "attn_out.weight"].T
            h = self._norm(x, at + "ff_norm.weight")
            gate, up = h @ self.w[at + "ff_proj.weight"].T, h @ self.w[at + "up_proj.weight"].T
            x = x + (gate * torch.sigmoid(gate) * up) @ self.w[at + "ff_out.weight"].T
        head = self.w["wte.weight"] if self.config["weight_tying"] else self.w["ff_out.weight"]
        logits = self._norm(x, "ln_f.weight") @ head.T
        return {p: logits[n] for n, p in enumerate(fed)}, fresh

    def _attend(self, query: Tensor, fed: list[int], everything: list[tuple[Tensor, Tensor]]) -> Tensor:
        heads, groups = self.config["n_heads"], self.config["n_kv_heads"]
        q = self._rotate(query.view(len(fed), heads, -1), fed)
        keys = torch.stack([k for k, _ in everything]).view(len(everything), groups, -1)
        keys = self._rotate(keys, list(range(len(everything))))
        values = torch.stack([v for _, v in everything]).view(len(everything), groups, -1)
        out = []
        for head in range(heads):
            group = head // (heads // groups)
            weight = (q[:, head] @ keys[:, group].T / self.head_dim**0.5).softmax(dim=1)
            out.append(weight @ values[:, group])
        return torch.cat(out, dim=1)

    # The loops -----------------------------------------------------------------------------------------------------

    def _choose(self, logits: Tensor, trace: Trace) -> tuple[int, float]:
        """The most likely token but the mask, and its probability."""
        ranked = [t for t in logits.argsort(descending=True).tolist() if t != self.mask]
        trace.note(float(logits[ranked[0]] - logits[ranked[1]]))
        return ranked[0], float(logits.softmax(dim=0)[ranked[0]])

    def _shares(self, holes: int, steps: int) -> list[int]:
        return [holes // steps + (1 if i < holes % steps else 0) for i in range(steps)]

    def confident(
        self, prompt: list[int], gen: int, block_length: int, steps: int, refresh: int | None = None, delay: int = 1
    ) -> Trace:
        """Low-confidence remasking: vanilla (refresh None) or dKV-Cache-Decode."""
        tokens = [*prompt, *[self.mask] * gen]
        trace, length, per_block = Trace(tokens), len(tokens), steps // (gen // block_length)
        open_positions = set(range(len(prompt), length))
        for block in range(gen // block_length):
            end = len(prompt) + (block + 1) * block_length
            shares = self._shares(sum(p < end for p in open_positions), per_block)
            table: Table = [{} for _ in range(self.config["n_layers"])]
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
                chosen = {p: self._choose(logits[p], trace) for p in fed if p in open_positions and p < end}
                ranked = sorted(chosen, key=lambda p: (-chosen[p][1], p))
                taken = ranked[: shares[i]]
                if 0 < shares[i] < len(ranked):
                    trace.note(chosen[ranked[shares[i] - 1]][1] - chosen[ranked[shares[i]]][1])
                self._play(trace, tokens, block, i, fed, {p: chosen[p] for p in taken}, logits)
                open_positions -= set(taken)
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
            shares = self._shares(block_length, per_block)
            cuts = [sum(shares[:i]) for i in range(per_block + 1)]
            turns = [order[block][cuts[i] : cuts[i + 1]] for i in range(per_block)]
            table: Table = [{} for _ in range(self.config["n_layers"])]
            candidates: list[int] = []
            for i, now in enumerate(turns):
                full = refresh is None or i % refresh == 0
                fed = list(range(length)) if full else sorted(candidates)
                logits, fresh = self.forward(tokens, fed, table)
                table = [{**old, **new} for old, new in zip(table, fresh, strict=True)]
                chosen = {p: self._choose(logits[p], trace) for p in now}
                if i + 1 < per_block:
                    candidates = self._candidates(turns[i + 1], now, open_positions, length, window)
                self._play(trace, tokens, block, i, fed, chosen, logits)
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

    @staticmethod
    def _play(
        trace: Trace,
        tokens: list[int],
        block: int,
        index: int,
        fed: list[int],
        chosen: dict[int, tuple[int, float]],
        logits: dict[int, Tensor],
    ) -> None:
        for p, (token, _) in chosen.items():
            tokens[p] = token
        decoded = {p: token for p, (token, _) in chosen.items()}
        trace.steps.append(Played(block, index, fed, decoded, {p: c for p, (_, c) in chosen.items()}, logits))
