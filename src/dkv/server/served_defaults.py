"""What a served request gets where it says nothing: the operator's settings, then what `dkv tune` found for the
checkpoint, then the built-in ones; and where each setting came from.

The built-in cache is none and the built-in decoder the family's own: what they cost is known for every checkpoint, and
what another pair loses in accuracy is known only where it was measured, which is what `dkv tune` does. The canvas grows
by blocks, so that the bound of an answer's length is no cost.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal

from dkv.caches import make_cache
from dkv.checkpoints.tuned_settings import AUTO, Tuned, find_tuned, kept_for
from dkv.core.growth import BLOCK_LENGTH
from dkv.core.registry import spec_of
from dkv.decoders import make_decoder
from dkv.errors import SettingError
from dkv.params import SamplingParams

if TYPE_CHECKING:
    from dkv.lm import DiffusionLM

__all__ = ["Choices", "Defaults", "Filled", "Source", "ran_with", "steps_for", "told"]

Source = Literal["request", "operator", "tuned", "default"]


@dataclass(frozen=True)
class Choices:
    """How to generate, as far as somebody has said so; None = not said. The names and values are those of
    `lm.generate`; cache "auto" is what `dkv tune` found."""

    cache: str | None = None
    decoder: str | None = None
    block_length: int | None = None
    steps: int | None = None
    grow: bool | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    cfg_scale: float | None = None

    @property
    def said(self) -> dict[str, Any]:
        """What was said, by name."""
        every = {part.name: getattr(self, part.name) for part in fields(self)}
        return {name: value for name, value in every.items() if value is not None}

    def check(self) -> None:
        """Raise SettingError for a value that no request could have."""
        steps = self.steps if isinstance(self.steps, int) and self.steps > 0 else 1
        length = steps if self.block_length is None else self.block_length
        SamplingParams(
            gen_length=max(length, 1),
            block_length=length,
            steps=length if self.steps is None else self.steps,
            temperature=0.0 if self.temperature is None else self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            cfg_scale=0.0 if self.cfg_scale is None else self.cfg_scale,
            seed=0,
            cache=make_cache("none" if self.cache in (None, AUTO) else str(self.cache)),
            decoder=make_decoder("confidence" if self.decoder is None else self.decoder),
            stop_at_eos=True,
            cache_dtype=None,
            stop=(),
            grow=bool(self.grow),
        )


NAMES = tuple(part.name for part in fields(Choices))


@dataclass(frozen=True)
class Filled:
    """Choices with nothing left open that has a default, and by name where each came from."""

    choices: Choices
    sources: dict[str, Source]

    @property
    def record(self) -> dict[str, Any]:
        """What is chosen, as JSON takes it; specs with every key, as an answer has them."""
        said = self.choices.said
        specs = {"cache": spec_of(make_cache(said["cache"])), "decoder": spec_of(make_decoder(said["decoder"]))}
        return said | specs


@dataclass(frozen=True)
class Defaults:
    """decoder: the model family's own; tuned: what is used where neither a cache nor a decoder was chosen, None =
    nothing was tuned, or the operator chose otherwise (a cache and a decoder are tuned as a pair); operator: settings
    for all requests; auto: finds what cache "auto" asks for, or raises SettingError."""

    decoder: str
    tuned: Tuned | None
    operator: Choices
    auto: Callable[[], Tuned]

    @classmethod
    def of(cls, lm: DiffusionLM, operator: Choices | None = None) -> Defaults:
        """Those of a loaded model. Raises SettingError for a setting that no request could have, and where what was
        tuned cannot be read or used."""
        operator = Choices() if operator is None else operator
        operator.check()

        def auto() -> Tuned:
            return find_tuned(lm.directory, lm.name, lm.quantize)

        tuned = None
        if operator.cache == AUTO:
            tuned = auto()
        elif operator.cache is None and operator.decoder is None and lm.directory is not None:
            tuned = kept_for(lm.directory, lm.quantize)
        if tuned is not None:
            _check_tuned(tuned)
        return cls(lm.model.config.default_decoder, tuned, operator, auto)

    def fill(self, asked: Choices, infills: bool = False) -> Filled:
        """What a request runs with that asks for so much. infills: whether it fills a gap, whose length is given: its
        canvas does not grow, only its own blocks and steps divide it, and no pair was tuned for that. Raises
        SettingError for a cache "auto" where nothing was tuned."""
        layers: list[tuple[Source, dict[str, Any]]] = [("request", asked.said), ("operator", self.operator.said)]
        if infills:
            layers[1] = ("operator", {n: v for n, v in self.operator.said.items() if n not in _OF_A_CANVAS})
        said = dict[str, tuple[Source, Any]]()
        for source, values in reversed(layers):
            said.update((name, (source, value)) for name, value in values.items())
        said = self._with_pair(said, None if infills else self.tuned)
        if infills:
            said.setdefault("grow", ("default", False))
        said.setdefault("grow", (said["steps"][0], False) if "steps" in said else ("default", True))
        if said["grow"][1] and "block_length" not in said:
            tuned = None if self.tuned is None else self.tuned.block_length
            said["block_length"] = ("default", BLOCK_LENGTH) if tuned is None else ("tuned", tuned)
        said.setdefault("temperature", ("default", 0.0))
        said.setdefault("cfg_scale", ("default", 0.0))
        return Filled(
            Choices(**{name: value for name, (_, value) in said.items()}),
            {name: said[name][0] if name in said else "default" for name in NAMES},
        )

    def _with_pair(self, said: dict[str, tuple[Source, Any]], tuned: Tuned | None) -> dict[str, tuple[Source, Any]]:
        """The same with a cache and a decoder: the tuned ones where neither was chosen."""
        cache = said.get("cache")
        tuned = tuned if cache is None and "decoder" not in said else None
        if cache is not None and cache[1] == AUTO:
            tuned = self.auto()
            said = {name: value for name, value in said.items() if name != "cache"}
        pair: dict[str, tuple[Source, Any]] = {"cache": ("default", "none"), "decoder": ("default", self.decoder)}
        if tuned is not None:
            pair = {"cache": ("tuned", tuned.cache), "decoder": ("tuned", tuned.decoder)}
        return pair | said


def steps_for(steps: int, gen_length: int, block_length: int) -> int:
    """As many steps, or a few more, so that each block has equally many; no more than one a token."""
    blocks = gen_length // block_length
    return -(-min(steps, gen_length) // blocks) * blocks


def told(defaults: Defaults, model: str) -> str:
    """One line: how requests are answered that say nothing else."""
    filled = defaults.fill(Choices())
    said = [f"{name}={value} ({filled.sources[name]})" for name, value in filled.choices.said.items()]
    advice = ""
    if defaults.tuned is None and set(filled.sources.values()) <= {"default"}:
        advice = f"; dkv tune --model {model} finds a faster cache and decoder"
    return f"unless a request says otherwise: {', '.join(said)}{advice}"


def ran_with(settings: SamplingParams) -> dict[str, Any]:
    """The settings of a request by the names of `Choices`, as JSON takes them."""
    specs = {name: spec_of(getattr(settings, name)) for name in ("cache", "decoder")}
    return {part.name: specs.get(part.name, getattr(settings, part.name)) for part in fields(Choices)}


_OF_A_CANVAS = frozenset({"block_length", "steps", "grow"})


def _check_tuned(tuned: Tuned) -> None:
    try:
        Choices(tuned.cache, tuned.decoder, tuned.block_length).check()
    except SettingError as error:
        raise SettingError(
            f"what was tuned for this model cannot be used ({error}); tune again, or choose a cache and a decoder"
        ) from None
