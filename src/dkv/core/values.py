"""Arguments: as plain Python values, as messages show them, and the names that callers misspell.

Neither numpy nor torch is imported: an array is what has `tolist`, a whole number what has `__index__`.
"""

from __future__ import annotations

import difflib
import inspect
import operator
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields, is_dataclass, replace
from functools import wraps
from typing import Any, ParamSpec, Protocol, TypeGuard, TypeVar, runtime_checkable

from dkv.errors import SettingError, SpecError

__all__ = [
    "LARGEST",
    "ArrayLike",
    "as_count",
    "as_index",
    "checked_keywords",
    "checked_options",
    "is_number",
    "nearest",
    "plain",
    "plain_fields",
    "require_number",
    "shown",
]

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

LARGEST = 1e6
"""Of every number that is a factor or a bound: beyond any use, and so far from where float32 ends that no product of
such a number with a logit gets there."""
_MOST = 80
_ELSEWHERE = {
    "gen_length": "max_tokens max_new_tokens max_length max_gen_toks length n_predict",
    "steps": "num_steps diffusion_steps num_inference_steps denoising_steps",
    "block_length": "block_size",
    "temperature": "temp",
    "cfg_scale": "guidance_scale cfg",
    "decoder": "remasking alg",
    "stop": "stop_strings stop_sequences until",
    "seed": "random_seed manual_seed",
    "prompts": "messages text inputs input_ids prompt_token_ids",
    "chat": "apply_chat_template",
    "dtype": "torch_dtype",
    "device": "device_map",
    "model": "model_path model_name pretrained_model_name_or_path",
    "quantize": "quantization load_in_8bit load_in_4bit",
    "tensor_parallel": "tp tensor_parallel_size",
    "active": "max_num_seqs",
}
"""What other programs call our arguments."""


@runtime_checkable
class ArrayLike(Protocol):
    """A tensor, an array, or a scalar of either: anything with `tolist`."""

    def tolist(self) -> Any:
        """The same as (nested lists of) Python numbers."""
        ...


def plain(value: Any) -> Any:
    """The value as Python's own bool, int, float or (nested) list where it is another library's; else as it is."""
    if value is None or type(value) in (bool, int, float, str, list, tuple, dict):
        return value
    if isinstance(value, ArrayLike):
        return _listed(value)
    if isinstance(value, (str, bool)):
        return value
    for protocol, convert in (("__index__", operator.index), ("__float__", float)):
        if hasattr(value, protocol):
            return convert(value)
    return value


def _listed(value: ArrayLike) -> Any:
    """Its numbers; the value itself where it has none at hand, as a tensor on the device "meta" or a sparse one."""
    try:
        return value.tolist()
    except (NotImplementedError, RuntimeError):
        return value


def as_index(value: Any) -> int | None:
    """The value as an int; None for what is no whole number. A bool is none, nor is 8.0."""
    value = plain(value)
    return value if type(value) is int else None


def as_count(argument: str, value: Any) -> int:
    """The value as an int of at least 1. Raises SettingError naming the argument."""
    count = as_index(value)
    if count is None or count < 1:
        raise SettingError(f"{argument}={plain(value)!r} must be a whole number of at least 1")
    return count


def plain_fields(made: T) -> T:
    """A dataclass object, such as a cache or a decoder, with its numbers as Python's own."""
    if not is_dataclass(made) or isinstance(made, type):
        return made
    old = {field.name: getattr(made, field.name) for field in fields(made) if field.init}
    new = {name: plain(value) for name, value in old.items()}
    changed = {name: value for name, value in new.items() if value is not old[name]}
    return replace(made, **changed) if changed else made


def require_number(name: str, key: str, value: object, what: str, *, zero: bool = True) -> None:
    """Refuse a key of a cache or decoder, `name` as in "decoder='factor'", that is no number from 0 to `LARGEST`, or is
    0 without `zero`. what: it must be, in words. Raises SpecError."""
    if not (is_number(value) and 0 <= value <= LARGEST and (zero or value > 0)):
        raise SpecError(f"{name}: {key}={shown(value)} must be {what}, at most {LARGEST:g}")


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether it is one: True and False are none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def shown(value: object) -> str:
    """A value as a message names it, short enough for its one line."""
    try:
        text = value if isinstance(value, str) and len(value) > _MOST else repr(value)
    except Exception:  # a whole number of more digits than Python writes, or a __repr__ that raises
        return f"a value of type {type(value).__name__}"
    if len(text) <= _MOST:
        return text
    return f"{text[: _MOST - 30]!r}... ({len(text)} characters)"


def checked_keywords(call: Callable[P, R]) -> Callable[P, R]:
    """The same call, which raises SettingError for a keyword that it does not take, and says which one is near."""
    return _checked(call, ())


def checked_options(options: type) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """As `checked_keywords`, for a call that also takes the keys of a TypedDict as keywords."""
    return lambda call: _checked(call, options.__annotations__)


def _checked(call: Callable[P, R], options: Iterable[str]) -> Callable[P, R]:
    parameters = inspect.signature(call).parameters.values()
    known = [each.name for each in parameters if each.name != "self" and each.kind is not each.VAR_KEYWORD]
    known += options
    name = call.__qualname__.removesuffix(".__init__").rpartition(".")[2]

    @wraps(call)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        for given, value in kwargs.items():
            if given not in known:
                raise SettingError(_unknown(name, given, value, known), given, value)
        return call(*args, **kwargs)

    return checked


def nearest(name: str, known: Sequence[str]) -> str | None:
    """The known name that was probably meant by another one; None where none is near."""
    written = name.lower().replace("-", "_")
    meant = next((ours for ours, theirs in _ELSEWHERE.items() if written in theirs.split()), "")
    found = difflib.get_close_matches(written, known, n=1, cutoff=0.7)
    if meant in known:
        return meant
    if meant.removesuffix("s") in known:  # one prompt, where others take several
        return meant.removesuffix("s")
    return found[0] if found else None


def _unknown(call: str, name: str, value: object, known: Sequence[str]) -> str:
    meant = nearest(name, known)
    fix = f"it takes {', '.join(known)}" if meant is None else f"did you mean {meant}?"
    return f"{name}={shown(value)} is no argument of {call}; {fix}".replace("\n", " ")
