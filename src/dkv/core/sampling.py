"""From logits to a token and a confidence, for the positions that the decoder queries and no others.

The mask token is never chosen. Confidences are those of the model's own logits. Noise is keyed by (seed, forward,
position) and not drawn from a stream, so neither the other sequences of a batch nor the cache change what is sampled.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = [
    "PLAIN_LOGIT_OPS",
    "Greatest",
    "LogitOps",
    "LogitRows",
    "Predictions",
    "Sampling",
    "greatest",
    "keyed_uniform",
    "log_confidence",
    "noise_key",
    "sample",
]

# Odd multipliers and shifts of the SplitMix64 finaliser (Steele, Lea and Flood, 2014), as signed 64-bit integers.
_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)
_MIX = (0xBF58476D1CE4E5B9 - (1 << 64), 0x94D049BB133111EB - (1 << 64))
_BITS = 40
_COLDEST = 1e-30


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn, per sequence: temperature [B], top_p [B] or None, top_k [B] or None (= unfiltered); greedy:
    every temperature is 0."""

    temperature: Tensor
    top_p: Tensor | None
    top_k: Tensor | None
    greedy: bool

    def at(self, sequence: Tensor) -> Sampling:
        """The same, one entry for each of `sequence` [M]."""
        top_p, top_k = (None if x is None else x.index_select(0, sequence) for x in (self.top_p, self.top_k))
        return Sampling(self.temperature.index_select(0, sequence), top_p, top_k, self.greedy)


@dataclass(frozen=True, eq=False)
class LogitRows:
    """M queried positions in ascending order, and the carried rows that predict them. Found before the forward, which
    leaves nothing of the program in a processor's caches."""

    flat: Tensor
    """[M] sequence * T + position."""
    sequence: Tensor
    """[M] sequence of each."""
    position: Tensor
    """[M] position of each."""
    shape: tuple[int, int]
    """(B, T)."""
    slot: Tensor
    """[M] slot of the row that predicts it."""
    row: Tensor
    """[M] which of the carried rows that is."""
    number: Tensor | None
    """[B * T] number of each carried row; None where all rows are carried."""
    sampling: Sampling
    """One entry for each of the M positions."""

    @classmethod
    def of(cls, wanted: Tensor, count: int, rows: Tensor, whole: bool, shift: int, sampling: Sampling) -> LogitRows:
        """The `count` wanted [B, T] ones, by carried rows [B, T] (whole: all of them), of which row p predicts token
        p + shift; sampling: of each sequence."""
        batch, width = rows.shape
        flat = torch.nonzero_static(wanted.view(-1), size=count).view(-1)
        sequence, position = flat // width, flat % width
        slot = (position - shift).clamp(min=0) if shift else position
        number = None if whole else rows.view(-1).cumsum(0) - 1
        place = sequence * width + slot if shift else flat
        row = place if number is None else number.index_select(0, place)
        return cls(flat, sequence, position, (batch, width), slot, row, number, sampling.at(sequence))

    def row_in(self, sequence: Tensor) -> Tensor:
        """[M] the carried row of the same slot in another sequence [M]."""
        place = sequence * self.shape[1] + self.slot
        return place if self.number is None else self.number.index_select(0, place)


@dataclass(frozen=True)
class Predictions:
    """What was read at M positions of the canvas."""

    flat: Tensor
    """[M] sequence * T + position, ascending."""
    shape: tuple[int, int]
    """(B, T)."""
    token: Tensor
    """[M] the candidate."""
    confidence: Tensor
    """[M] its log-probability under the unaltered logits."""
    raw: Tensor
    """[M, V] logits, unaltered, in the model's dtype."""
    sampling: Sampling
    """One entry for each of the M positions."""

    @cached_property
    def logits(self) -> Tensor:
        """Logits [M, V] float32, unaltered."""
        return self.raw.float()

    @cached_property
    def altered(self) -> Tensor:
        """Logits [M, V] after temperature, top-p and top-k: what Dream's rules take their confidences from."""
        s = self.sampling
        # Below the coldest all but the greatest vanish anyway, and the greatest would overflow.
        warm = torch.where(s.temperature > 0, s.temperature.clamp(min=_COLDEST), 1.0)[:, None]
        return _filtered(self.logits if s.greedy else self.logits / warm, s)

    def spread(self, values: Tensor, fill: float) -> Tensor:
        """Lay values [M] out on a [B, T] grid of `fill`."""
        grid = torch.full((self.shape[0] * self.shape[1],), fill, dtype=values.dtype, device=values.device)
        return grid.scatter_(0, self.flat, values).view(self.shape)

    def at(self, grid: Tensor) -> Tensor:
        """What a grid [B, T, ...] holds at the positions read, [M, ...]."""
        return grid.flatten(0, 1)[self.flat]


class Greatest(NamedTuple):
    """The greatest of each row of logits [M, V]."""

    token: Tensor
    """[M] its token, the lowest id of equals."""
    value: Tensor
    """[M] its logit."""


def greatest(logits: Tensor) -> Greatest:
    """The greatest of each row of logits [M, V]."""
    found = logits.max(dim=1)  # the first of equals, as argmax, which takes longer
    return Greatest(found.indices, found.values)


def log_confidence(logits: Tensor, token: Tensor, top: Greatest | None = None) -> Tensor:
    """Log-probability [M] of token [M] under softmax of logits [M, V], without the rounding of a softmax near 1.

    log p = (l_token - l_top) - log1p(sum over the others of exp(l_j - l_top)). A plain float32 softmax rounds every
    confident token to 1.0, and then rounding would pick the decoding order. top: `greatest` of the same logits, where
    it is known.
    """
    top = greatest(logits) if top is None else top
    value = top.value[:, None].float()
    others = torch.sub(logits, value).exp_().scatter_(1, top.token[:, None], 0.0).sum(dim=1)
    return (logits.gather(1, token[:, None]).float() - value).squeeze(1) - others.log1p_()


class LogitOps:
    """What is found from whole rows of logits, in plain torch; a model may have a faster way to the same."""

    def greatest(self, logits: Tensor) -> Greatest:
        """The greatest of each row of logits [M, V]."""
        return greatest(logits)

    def unmasked_argmax(self, logits: Tensor, mask_id: int) -> Greatest:
        """The greatest of each row of logits [M, V] but for the mask token."""
        with _without_mask_token(logits, mask_id):
            return self.greatest(logits)

    def argmax_with_logprob(self, logits: Tensor, mask_id: int) -> tuple[Tensor, Tensor]:
        """The most likely token [M] of each row of logits [M, V] but for the mask token, and its log-probability."""
        found, masks = self.unmasked_argmax(logits, mask_id), logits[:, mask_id]
        above = masks > found.value  # so the greatest of all is known without another pass over them
        top = Greatest(torch.where(above, mask_id, found.token), torch.where(above, masks, found.value))
        return found.token, self.log_confidence(logits, found.token, top)

    def log_confidence(self, logits: Tensor, token: Tensor, top: Greatest | None = None) -> Tensor:
        """Log-probability [M] of token [M] under softmax of logits [M, V]; top: as `log_confidence` takes it."""
        return log_confidence(logits, token, self.greatest(logits) if top is None else top)


PLAIN_LOGIT_OPS = LogitOps()
"""What a model has unless it is given others."""


def sample(logits: Tensor, likeliest: Tensor, sampling: Sampling, mask_id: int, key: Tensor) -> Tensor:
    """A token [M] for each row of logits [M, V], its noise keyed by `key` [M]; `likeliest` [M] where the temperature is
    0.

    Gumbel noise on logits / temperature, after top-p and then top-k, in the order of Dream's published program.
    `sampling` has one entry per row. The mask token is left out before anything else.
    """
    warm = sampling.temperature > 0
    with _without_mask_token(logits, mask_id):
        below_top = logits - logits.amax(dim=1, keepdim=True)  # so that no temperature overflows
        scaled = _filtered(below_top / torch.where(warm, sampling.temperature, 1.0)[:, None], sampling)
    noise = -(-torch.log1p(-keyed_uniform(key, logits.shape[1]))).log()
    return torch.where(warm, (scaled + noise).argmax(dim=1), likeliest)


@contextmanager
def _without_mask_token(logits: Tensor, mask_id: int) -> Iterator[None]:
    """The mask token's column of logits [M, V] at -inf for a while: cheaper than a copy of all the others."""
    column = logits[:, mask_id].clone()
    logits[:, mask_id] = -torch.inf
    yield
    logits[:, mask_id] = column


def _filtered(scaled: Tensor, sampling: Sampling) -> Tensor:
    """Put -inf on what top-p and top-k leave out of scaled [M, V]; the most likely token always stays."""
    if sampling.top_p is None and sampling.top_k is None:
        return scaled
    ordered, order = scaled.sort(dim=1, descending=True, stable=True)
    if sampling.top_p is not None:
        share = ordered.softmax(dim=1)
        outside = share.cumsum(dim=1) - share > sampling.top_p[:, None]
        ordered = ordered.masked_fill(outside, -torch.inf)
    if sampling.top_k is not None:
        beyond = torch.arange(ordered.shape[1], device=ordered.device) >= sampling.top_k[:, None]
        ordered = ordered.masked_fill(beyond, -torch.inf)
    return torch.empty_like(scaled).scatter_(1, order, ordered)


def noise_key(seed: Tensor, clock: Tensor, position: Tensor) -> Tensor:
    """One 64-bit key [M] from three int64 tensors [M]."""
    return _mix(_mix(_mix(seed) + clock) + position)


def keyed_uniform(key: Tensor, count: int) -> Tensor:
    """Uniform float32 [M, count] in (0, 1], a function of key [M] and the column alone, the same on every device.

    Forty bits before rounding, so that values near 0 keep their full relative precision.
    """
    column = torch.arange(1, count + 1, device=key.device) * _GOLDEN
    bits = _mix(key[:, None] + column) & ((1 << _BITS) - 1)
    return bits.to(torch.float32).add_(0.5).mul_(2.0**-_BITS)


def _mix(z: Tensor) -> Tensor:
    z = z + _GOLDEN
    z = (z ^ (z >> 30)) * _MIX[0]
    z = (z ^ (z >> 27)) * _MIX[1]
    return z ^ (z >> 31)
