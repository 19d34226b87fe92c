"""What a served request gets where it says nothing: the operator's settings, then what `dkv tune` found for the
checkpoint, then the built-in ones; and where each setting came from.

The built-in cache is none and the built-in decoder the family's own: what they cost is known for every checkpoint, and
what another pair loses in accuracy is known only where it was measured, which is what `dkv tune` does. The canvas grows
by blocks, so that the bound of an answer's length is no cost.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

from dkv.caches import make_cache
from dkv.checkpoints.tuned_settings import AUTO, Tuned, find_tuned, kept_for
from dkv.core.registry import spec_of
from dkv.decoders import make_decoder
from dkv.errors import SettingError
from dkv.params import BLOCK_LENGTH, DEFAULTS, OPTIONS, SERVED, Options, ResolvedParams, SamplingParams

if TYPE_CHECKING:
    from dkv.lm import DiffusionLM

__all__ = ["Defaults", "Filled", "Source", "check_options", "ran_with", "steps_for", "told"]

Source = Literal["request", "operator", "tuned", "default"]


def check_options(options: Options) -> None:
    """Raise SettingError and SpecError for an option of the operator's that no request could have."""
    for name in options.keys() - set(SERVED):
        raise SettingError(f"{name} is no setting of a server's requests; it takes {', '.join(SERVED)}", name)
    steps, length = options.get("steps"), options.get("block_length")
    if length is None:
        length = steps if type(steps) is int and steps > 0 else 1
    whole = length if type(length) is int and length > 0 else 1
    params = SamplingParams(gen_length=whole, block_length=length).with_options(options)
    make_cache("none" if params.cache == AUTO else str(params.cache))
    make_decoder("confidence" if params.decoder is None else str(params.decoder))


@dataclass(frozen=True)
class Filled:
    """The options of a request with nothing left open that has a default."""

    options: Options
    sources: dict[str, Source]
    """By name, where each came from."""

    @property
    def record(self) -> dict[str, Any]:
        """What is chosen, as JSON takes it; specs with every key, as an answer has them."""
        found = dict[str, Any](self.options)
        specs = {"cache": spec_of(make_cache(found["cache"])), "decoder": spec_of(make_decoder(found["decoder"]))}
        return found | specs


@dataclass(frozen=True)
class Defaults:
    """decoder: the model family's own; tuned: what is used where neither a cache nor a decoder was chosen, None =
    nothing was tuned, or the operator chose otherwise (a cache and a decoder are tuned as a pair); operator: settings
    for all requests; auto: finds what cache "auto" asks for, or raises SettingError."""

    decoder: str
    tuned: Tuned | None
    operator: Options
    auto: Callable[[], Tuned]

    @classmethod
    def of(cls, lm: DiffusionLM, operator: Options | None = None) -> Defaults:
        """Those of a loaded model. Raises SettingError for a setting that no request could have, and where what was
        tuned cannot be read or used."""
        given = {name: value for name, value in (operator or {}).items() if value is not None}
        operator = cast("Options", given)
        check_options(operator)

        def auto() -> Tuned:
            return find_tuned(lm.directory, lm.name, lm.quantize)

        tuned = None
        if operator.get("cache") == AUTO:
            tuned = auto()
        elif not operator.keys() & {"cache", "decoder"} and lm.directory is not None:
            tuned = kept_for(lm.directory, lm.quantize)
        if tuned is not None:
            _check_tuned(tuned)
        return cls(lm.model.config.default_decoder, tuned, operator, auto)

    def fill(self, asked: Options, infills: bool = False) -> Filled:
        """What a request runs with that asks for so much. infills: whether it fills a gap, whose length is given: its
        canvas does not grow, only its own blocks and steps divide it, and no pair was tuned for that. Raises
        SettingError for a cache "auto" where nothing was tuned."""
        layers: list[tuple[Source, dict[str, Any]]] = [("request", {**asked}), ("operator", {**self.operator})]
        if infills:
            layers[1] = ("operator", {n: v for n, v in self.operator.items() if n not in _OF_A_CANVAS})
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
        for name in SERVED:
            if DEFAULTS[name] is not None:
                said.setdefault(name, ("default", DEFAULTS[name]))
        options = {name: said[name][1] for name in SERVED if name in said}
        return Filled(cast("Options", options), {name: said[name][0] if name in said else "default" for name in SERVED})

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
    """One line: how requests are answered that say nothing else; without options that change nothing."""
    filled = defaults.fill({})
    options = dict[str, Any](filled.options)
    neutral = {name for name in options if OPTIONS[name].neutral and options[name] == DEFAULTS[name]}
    names = sorted(options.keys() - neutral, key=lambda name: ("cache", "decoder", *SERVED).index(name))
    said = [f"{name}={options[name]} ({filled.sources[name]})" for name in names]
    advice = ""
    if defaults.tuned is None and set(filled.sources.values()) <= {"default"}:
        advice = f"; dkv tune --model {model} finds a faster cache and decoder"
    return f"unless a request says otherwise: {', '.join(said)}{advice}"


def ran_with(settings: ResolvedParams) -> dict[str, Any]:
    """The options of a request that an operator may set, as JSON takes them."""
    specs = {"cache": spec_of(settings.cache), "decoder": spec_of(settings.decoder)}
    return {name: specs.get(name, getattr(settings, name)) for name in SERVED}


_OF_A_CANVAS = frozenset({"block_length", "steps", "grow"})


def _check_tuned(tuned: Tuned) -> None:
    try:
        check_options({"cache": tuned.cache, "decoder": tuned.decoder, "block_length": tuned.block_length})
    except SettingError as error:
        raise SettingError(
            f"what was tuned for this model cannot be used ({error}); tune again, or choose a cache and a decoder"
        ) from None
