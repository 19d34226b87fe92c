"""The options of a generation: the only list of them. Python's keywords, the command line, the server's fields, batch
files and the playground are derived from it.

`SamplingParams` is what a user asks for, checked at once; `ResolvedParams` is what runs, with every default filled in,
and is recorded with each result. To add an option: a row of `OPTIONS`, a field of `SamplingParams` and a key
of `Options` or `InfillOptions` here, and what reads it, such as a logits processor.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from dkv.core.values import LARGEST, ArrayLike, is_number, plain, shown
from dkv.errors import SettingError

if TYPE_CHECKING:  # the command line reads the options without torch
    from dkv.core.policy import CachePolicy, Decoder

__all__ = [
    "BLOCK_LENGTH",
    "CACHE",
    "DEFAULTS",
    "OPTIONS",
    "SERVED",
    "InfillOptions",
    "Option",
    "Options",
    "ResolvedParams",
    "SamplingParams",
    "drawn_seed",
    "seed_of",
]

LENGTH, SAMPLING, CACHE = "Length and end of the text", "Sampling", "Cache and decoder"
"""Headings under which options are listed."""

BLOCK_LENGTH = 64
"""By how many positions a canvas grows where nobody says so. The embedded model loses two points of accuracy with 32,
and none with 64: see docs/serve.md."""
_FAR = 4096
"""Farther from the block length that was asked for no other is proposed."""
_MOST_STEPS = 16
"""Steps for each position: once all are fixed, further steps only repeat themselves."""
_SEEDS = 1 << 62
"""How many seeds there are."""


class InfillOptions(TypedDict, total=False):
    """The options that filling holes takes; `SamplingParams` describes them."""

    block_length: int | None
    steps: int | None
    temperature: float
    top_p: float | None
    top_k: int | None
    repetition_penalty: float
    cfg_scale: float
    seed: int | Sequence[int] | ArrayLike | None
    cache: str | CachePolicy
    decoder: str | Decoder | None
    cache_dtype: str | None
    eos_penalty: float
    min_tokens: int | None


class Options(InfillOptions, total=False):
    """The options of a generation as keyword arguments; `SamplingParams` describes them."""

    gen_length: int
    stop: str | Sequence[str] | None
    stop_at_eos: bool
    grow: bool


@dataclass(frozen=True)
class Option:
    """What is known of an option beside its name, type and default."""

    kind: Literal["whole", "number", "switch", "spec", "dtype", "texts"]
    """What values it has."""
    group: str
    """The heading that it is listed under."""
    help: str
    """What it does, in one line."""
    _: KW_ONLY
    unset: str = ""
    """What None, the default, means."""
    neutral: str = ""
    """The value at which it changes nothing, with what that means: "0: no guidance"."""
    least: float = 0
    """The lowest value of a number."""
    most: float = LARGEST
    """The highest value of a number."""
    exclusive: bool = False
    """Whether `least` itself is too low."""
    served: Literal["default", "request", "other"] = "default"
    """Who may set it at a server: the operator and a request; a request only; or the API has another field for it."""
    served_unset: str = ""
    """What a request gets that leaves it out, unless that is what `unset` or the default say."""

    def check(self, name: str, value: object) -> None:
        """Raise SettingError for a value that no generation takes."""
        if self.kind == "switch" and not isinstance(value, bool):
            raise _refused(name, value, "must be True or False")
        if self.kind == "whole" and not (type(value) is int and self.least <= value < 1 << 31):
            raise _refused(name, value, f"must be a whole number of at least {self.least:g} (and below 2**31)")
        if self.kind == "number":
            self._check_number(name, value)

    def _check_number(self, name: str, value: object) -> None:
        if not is_number(value) or value != value:  # the latter is NaN; math.isnan takes no large integers
            raise _refused(name, value, "must be a number", self.neutral)
        if value < self.least or (self.exclusive and value == self.least):
            why = "must not be negative" if self.least == 0 and not self.exclusive else f"must {self.range}"
            raise _refused(name, value, why, self.neutral)
        if value > self.most:
            raise _refused(name, value, f"must {self.range}", self.neutral)

    @property
    def range(self) -> str:
        """What a number must do."""
        if self.least == 0 and not self.exclusive:
            return f"be at most {self.most:g}"
        return f"lie in {'(' if self.exclusive else '['}{self.least:g}, {self.most:g}]"


OPTIONS: Mapping[str, Option] = {
    "gen_length": Option(
        "whole", LENGTH, "Positions of the response: the length of the canvas.", least=1, served="other"
    ),
    "block_length": Option(
        "whole", LENGTH, "Positions per block; blocks are decoded in turn.", least=1, unset="the same as gen_length",
        served_unset="as tuned, else 64 on a growing canvas",
    ),
    "steps": Option(
        "whole", LENGTH, "Denoising steps for the whole response.", least=1, unset="the same as gen_length",
        served_unset="one a token",
    ),
    "grow": Option(
        "switch", LENGTH, "Begin with one block and add blocks as needed, up to gen_length.",
        served_unset="true without steps",
    ),
    "stop": Option("texts", LENGTH, "End the text before this one.", served="request"),
    "stop_at_eos": Option("switch", LENGTH, "End as soon as all before the end-of-text is decided.", served="other"),
    "eos_penalty": Option(
        "number", LENGTH, "Subtract this from the logits of the tokens that end a text.", neutral="0: no penalty"
    ),
    "min_tokens": Option(
        "whole", LENGTH, "Do not let the text end within this many first positions.",
        unset="0, or all positions of a hole", served="request",
    ),
    "temperature": Option(
        "number", SAMPLING, "Randomness of the sampled tokens; 0 takes the most likely token.",
        neutral="0: the most likely token",
    ),
    "top_p": Option(
        "number", SAMPLING, "Sample from this share of the probability.", exclusive=True, most=1, unset="no filter",
        neutral="leave it out for no filter",
    ),
    "top_k": Option("whole", SAMPLING, "Sample from this many tokens.", least=1, unset="no filter"),
    "repetition_penalty": Option(
        "number", SAMPLING, "Divide by this the logits of tokens that the canvas holds; 1 is none.", least=1 / LARGEST,
        neutral="1: no penalty",
    ),
    "cfg_scale": Option(
        "number", SAMPLING, "Strength of classifier-free guidance; 0 is none.", neutral="0: no guidance"
    ),
    "seed": Option(
        "whole", SAMPLING, "Seed of all random choices.", unset="one is drawn and reported", served="request"
    ),
    "cache": Option(
        "spec", CACHE, "The cache; `dkv caches` lists them.",
        served_unset="the one that `dkv tune` found, else none",
    ),
    "decoder": Option(
        "spec", CACHE, "The unmasking rule.", unset="that of the model's family",
        served_unset="the one that `dkv tune` found, else that of the model's family",
    ),
    "cache_dtype": Option(
        "dtype", CACHE, "The dtype of cached keys and values.", unset="the model's", served="other"
    ),
}  # fmt: skip
"""Every option by name, in the order in which it is listed."""

SERVED = tuple(name for name, option in OPTIONS.items() if option.served == "default")
"""Those that a server's operator may set for requests that do not."""


@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """The options of a generation; `OPTIONS` says what each does. Numbers of numpy and torch become Python's.

    seed: one for each prompt, or the first prompt's, from which the others count up; cache, decoder: specs or objects,
    cache "auto" = both as `dkv tune` found them. Raises SettingError naming the option, its value and the fix; specs
    are looked up when a model runs them.
    """

    gen_length: int = 128
    block_length: int | None = None
    steps: int | None = None
    grow: bool = False
    stop: str | Sequence[str] | None = None
    stop_at_eos: bool = True
    eos_penalty: float = 0.0
    min_tokens: int | None = None
    temperature: float = 0.0
    top_p: float | None = None
    top_k: int | None = None
    repetition_penalty: float = 1.0
    cfg_scale: float = 0.0
    seed: int | Sequence[int] | ArrayLike | None = None
    cache: str | CachePolicy = "dkv-decode"
    decoder: str | Decoder | None = None
    cache_dtype: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "stop", _texts(self.stop))
        object.__setattr__(self, "seed", _seeds(self.seed))
        for name, option in OPTIONS.items():
            if option.kind in ("whole", "number", "switch") and name != "seed":
                value = plain(getattr(self, name))
                object.__setattr__(self, name, value)
                if name != "min_tokens" and (value is not None or DEFAULTS[name] is not None):
                    option.check(name, value)
        self._check_lengths()
        least = self.min_tokens
        if least is not None and not (type(least) is int and 0 <= least <= self.gen_length):
            raise _refused(
                "min_tokens", self.min_tokens, f"must be a whole number from 0 to gen_length={self.gen_length}"
            )

    def _check_lengths(self) -> None:
        """Blocks divide the response, and steps are as many in each of them."""
        block = self.gen_length if self.block_length is None else self.block_length
        if self.gen_length % block:
            fitting = _fitting_block(self.gen_length, block)
            fix = f"use gen_length={-(-self.gen_length // block) * block}"
            fix += "" if fitting is None else f", or block_length={fitting}"
            raise _refused("gen_length", self.gen_length, f"must be a multiple of block_length={block}", fix)
        if self.grow and self.block_length is None:
            fix = "by how many positions to grow at a time, such as 32"
            raise SettingError(f"grow=True needs block_length, {fix}", "block_length", None, fix)
        blocks, steps = self.gen_length // block, self.gen_length if self.steps is None else self.steps
        if steps % blocks:
            why = f"must be a multiple of the number of blocks, {blocks} (gen_length / block_length)"
            raise _refused("steps", steps, why, f"use steps={-(-steps // blocks) * blocks}")
        if steps > _MOST_STEPS * self.gen_length:
            why = f"must be at most {_MOST_STEPS} for each of gen_length={self.gen_length} positions"
            raise _refused("steps", steps, why, f"use steps={self.gen_length}, which fixes one at each")

    def with_options(self, options: Options) -> SamplingParams:
        """The same with options that win over it. Raises SettingError."""
        return replace(self, **options) if options else self

    def resolve(self, cache: CachePolicy, decoder: Decoder, seed: int | tuple[int, ...]) -> ResolvedParams:
        """Everything filled in, for a generation with this cache, decoder and seed or seeds. Raises SettingError."""
        values: dict[str, Any] = {name: getattr(self, name) for name in OPTIONS}
        values |= {
            "block_length": self.gen_length if self.block_length is None else self.block_length,
            "steps": self.gen_length if self.steps is None else self.steps,
            "min_tokens": self.min_tokens or 0,
            "cache": cache,
            "decoder": decoder,
            "seed": seed,
        }
        return ResolvedParams(**values)


@dataclass(frozen=True, kw_only=True)
class ResolvedParams(SamplingParams):
    """The options that a generation ran with, none left open; made by `SamplingParams.resolve`."""

    block_length: int
    steps: int
    min_tokens: int
    stop: tuple[str, ...]
    seed: int | tuple[int, ...]
    cache: CachePolicy
    decoder: Decoder

    @property
    def blocks(self) -> int:
        """Number of blocks."""
        return self.gen_length // self.block_length

    def seeds(self, count: int) -> list[int]:
        """One seed per prompt, no two alike where one is given for all: its number plus the prompt's index. Raises
        SettingError where the number of seeds given differs from `count`, or the last one is too large."""
        if isinstance(self.seed, int):
            if self.seed + count > _SEEDS:
                raise SettingError(
                    f"seed={self.seed} plus {count - 1}, for {count} prompts, must be below 2**62", "seed"
                )
            return list(range(self.seed, self.seed + count))
        if len(self.seed) != count:
            raise SettingError(f"seed: {len(self.seed)} seeds for {count} prompts; give one, or one for each", "seed")
        return list(self.seed)


DEFAULTS: Mapping[str, Any] = {each.name: each.default for each in fields(SamplingParams)}
"""The options' defaults."""


def drawn_seed() -> int:
    """A seed that nobody has chosen."""
    return secrets.randbits(32)


def seed_of(params: SamplingParams, draw: Callable[[], int], count: int) -> int | tuple[int, ...]:
    """The seed or seeds to use for `count` prompts; one is drawn for each where none is given."""
    seed = _seeds(params.seed)
    if seed is None:
        return draw() if count == 1 else tuple(draw() for _ in range(count))
    return seed


def _seeds(seed: int | Sequence[int] | ArrayLike | None) -> int | tuple[int, ...] | None:
    """A seed or seeds as Python's numbers. Raises SettingError."""
    given = plain(seed)
    several = isinstance(given, Sequence) and not isinstance(given, str)
    found = tuple(map(plain, given)) if several else (given,)
    for each in found:
        if not (given is None or (type(each) is int and 0 <= each < _SEEDS)):
            raise _refused("seed", each, "must be a whole number in [0, 2**62)")
    return found if several else given


def _texts(stop: str | Sequence[str] | ArrayLike | None) -> tuple[str, ...]:
    """The texts to stop at. Raises SettingError."""
    stop = plain(stop)
    if stop is None or isinstance(stop, str):
        stop = () if stop is None else (stop,)
    elif not isinstance(stop, Sequence):
        raise _refused("stop", stop, "must be a text or several")
    if any(not isinstance(text, str) or not text for text in stop):
        raise _refused("stop", list(stop), "must be a text or several, none empty")
    return tuple(stop)


def _fitting_block(gen_length: int, block_length: int) -> int | None:
    """The divisor of gen_length that is nearest to block_length, of two the larger; None where all are far from it."""
    if block_length > gen_length:
        return gen_length
    reach = min(block_length // 2, _FAR)
    near = [n for n in range(max(block_length - reach, 1), block_length + reach + 1) if gen_length % n == 0]
    return min(near, key=lambda n: (abs(n - block_length), -n), default=None)


def _refused(name: str, value: object, why: str, fix: str = "") -> SettingError:
    message = f"{name}={shown(value)} {why}"
    return SettingError(f"{message}; {fix}" if fix else message, name, value, fix or None)
