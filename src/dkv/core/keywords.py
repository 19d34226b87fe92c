"""Misspelt keyword arguments of the public calls, refused with the name that was probably meant."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from typing import ParamSpec, TypeVar

from dkv.errors import SettingError

__all__ = ["checked_keywords", "checked_options", "nearest"]

P = ParamSpec("P")
R = TypeVar("R")

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
    plain = name.lower().replace("-", "_")
    meant = next((ours for ours, theirs in _ELSEWHERE.items() if plain in theirs.split()), "")
    found = difflib.get_close_matches(plain, known, n=1, cutoff=0.7)
    if meant in known:
        return meant
    if meant.removesuffix("s") in known:  # one prompt, where others take several
        return meant.removesuffix("s")
    return found[0] if found else None


def _unknown(call: str, name: str, value: object, known: Sequence[str]) -> str:
    meant, shown = nearest(name, known), repr(value)
    shown = shown if len(shown) <= 40 else f"{shown[:37]}..."
    fix = f"it takes {', '.join(known)}" if meant is None else f"did you mean {meant}?"
    return f"{name}={shown} is no argument of {call}; {fix}".replace("\n", " ")
