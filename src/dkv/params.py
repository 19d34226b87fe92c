"""The arguments of a generation, checked once and recorded with every result."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dkv.core.policy import CachePolicy, Decoder
from dkv.core.values import LARGEST, ArrayLike, is_number, plain, shown
from dkv.errors import SettingError

__all__ = ["SamplingParams", "drawn_seed", "seed_of", "texts_of"]

_FAR = 4096
"""Farther from the block length that was asked for no other is proposed."""
_MOST_STEPS = 16
"""Steps for each position: once all are fixed, further steps only repeat themselves."""

_NUMBERS = (
    "gen_length", "block_length", "steps", "temperature", "top_p", "top_k", "cfg_scale", "stop_at_eos", "eos_penalty",
    "min_tokens", "grow",
)  # fmt: skip

_SEEDS = 1 << 62
"""How many seeds there are."""


@dataclass(frozen=True)
class SamplingParams:
    """Checked settings; block_length, steps and seeds are filled in. Raises SettingError naming argument, value, fix.

    gen_length: response length; block_length: tokens per semi-autoregressive block; steps: denoising steps of the whole
    response; seed: one per prompt, or the first prompt's, from which the others count up; eos_penalty: taken from the
    logits of end-of-text ids when a token is chosen; min_tokens: first positions of the response at which none of them
    is; grow: a block's positions exist only once the block before it has ended without an end of the text. Numbers of
    numpy and torch become Python's.
    """

    gen_length: int
    block_length: int
    steps: int
    temperature: float
    top_p: float | None
    top_k: int | None
    cfg_scale: float
    seed: int | tuple[int, ...]
    cache: CachePolicy
    decoder: Decoder
    stop_at_eos: bool
    cache_dtype: str | None
    stop: tuple[str, ...]
    eos_penalty: float = 0.0
    min_tokens: int = 0
    grow: bool = False

    def __post_init__(self) -> None:
        for name in _NUMBERS:
            object.__setattr__(self, name, plain(getattr(self, name)))
        for name in ("gen_length", "block_length", "steps"):
            _whole(name, getattr(self, name))
        if self.gen_length % self.block_length:
            fitting = _fitting_block(self.gen_length, self.block_length)
            other = "" if fitting is None else f", or block_length={fitting}"
            raise SettingError(
                f"gen_length={self.gen_length} must be a multiple of block_length={self.block_length}; "
                f"use gen_length={-(-self.gen_length // self.block_length) * self.block_length}{other}",
                "gen_length",
            )
        if self.steps % self.blocks:
            raise SettingError(
                f"steps={self.steps} must be a multiple of the number of blocks, {self.blocks} "
                f"(gen_length / block_length); use steps={-(-self.steps // self.blocks) * self.blocks}",
                "steps",
            )
        if self.steps > _MOST_STEPS * self.gen_length:
            raise SettingError(
                f"steps={self.steps} must be at most {_MOST_STEPS} for each of gen_length={self.gen_length} positions; "
                f"use steps={self.gen_length}, which fixes one at each",
                "steps",
            )
        self._check_sampling()
        self._check_endings()
        for seed in self.seed if isinstance(self.seed, tuple) else (self.seed,):
            if type(seed) is not int or not 0 <= seed < _SEEDS:
                raise SettingError(f"seed={shown(seed)} must be a whole number in [0, 2**62)", "seed")

    def _check_sampling(self) -> None:
        _not_negative("temperature", self.temperature, "the most likely token")
        if self.top_p is not None and not (is_number(self.top_p) and 0 < self.top_p <= 1):
            raise SettingError(f"top_p={shown(self.top_p)} must lie in (0, 1]; leave it out for no filter", "top_p")
        if self.top_k is not None:
            _whole("top_k", self.top_k)
        _not_negative("cfg_scale", self.cfg_scale, "no guidance")
        if any(not isinstance(text, str) or not text for text in self.stop):
            raise SettingError(f"stop={shown(list(self.stop))} must be a text or several, none empty", "stop")

    def _check_endings(self) -> None:
        _not_negative("eos_penalty", self.eos_penalty, "no penalty")
        if type(self.min_tokens) is not int or not 0 <= self.min_tokens <= self.gen_length:
            raise SettingError(
                f"min_tokens={shown(self.min_tokens)} must be a whole number from 0 to gen_length={self.gen_length}",
                "min_tokens",
            )
        if not isinstance(self.grow, bool):
            raise SettingError(f"grow={shown(self.grow)} must be True or False", "grow")

    @property
    def blocks(self) -> int:
        """Number of blocks."""
        return self.gen_length // self.block_length

    def seeds(self, count: int) -> list[int]:
        """One seed per prompt, no two alike where one is given for all: its number plus the prompt's index. Raises
        SettingError where the number of seeds given differs from `count`, or the last one is too large."""
        if isinstance(self.seed, int):
            if self.seed + count > _SEEDS:
                raise SettingError(f"seed={self.seed} plus {count - 1}, for {count} prompts, must be below 2**62")
            return list(range(self.seed, self.seed + count))
        if len(self.seed) != count:
            raise SettingError(f"seed: {len(self.seed)} seeds for {count} prompts; give one, or one for each", "seed")
        return list(self.seed)


def _fitting_block(gen_length: int, block_length: int) -> int | None:
    """The divisor of gen_length that is nearest to block_length, of two the larger; None where all are far from it."""
    if block_length > gen_length:
        return gen_length
    reach = min(block_length // 2, _FAR)
    near = [n for n in range(max(block_length - reach, 1), block_length + reach + 1) if gen_length % n == 0]
    return min(near, key=lambda n: (abs(n - block_length), -n), default=None)


def drawn_seed() -> int:
    """A seed that nobody has chosen."""
    return secrets.randbits(32)


def seed_of(
    seed: int | Sequence[int] | ArrayLike | None, draw: Callable[[], int] = drawn_seed, count: int = 1
) -> int | tuple[int, ...]:
    """The seed or seeds to use for `count` prompts; None draws one for each."""
    given: int | Sequence[int] | None = plain(seed)
    if given is None:
        return draw() if count == 1 else tuple(draw() for _ in range(count))
    return tuple(map(plain, given)) if isinstance(given, Sequence) else given


def texts_of(stop: str | Sequence[str] | ArrayLike | None) -> tuple[str, ...]:
    """`stop` as a tuple. Raises SettingError."""
    stop = plain(stop)
    if stop is None or isinstance(stop, str):
        return () if stop is None else (stop,)
    if not isinstance(stop, Sequence):
        raise SettingError(f"stop={shown(stop)} must be a text or several", "stop")
    return tuple(stop)


def _whole(name: str, value: object) -> None:
    if type(value) is not int or not 1 <= value < 1 << 31:
        raise SettingError(f"{name}={shown(value)} must be a whole number of at least 1 (and below 2**31)", name)


def _not_negative(name: str, value: object, at_zero: str) -> None:
    """Raise SettingError for what is no number in [0, LARGEST]. at_zero: what 0 means."""
    if not is_number(value) or value != value:  # the latter is NaN; math.isnan takes no large integers
        raise SettingError(f"{name}={shown(value)} must be a number; 0: {at_zero}", name)
    if value < 0:
        raise SettingError(f"{name}={shown(value)} must not be negative; 0: {at_zero}", name)
    if value > LARGEST:
        raise SettingError(f"{name}={shown(value)} must be at most {LARGEST:g}; 0: {at_zero}", name)
