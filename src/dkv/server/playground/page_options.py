"""What the page offers to choose from: the model's facts, caches, decoders, presets, lengths and examples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dkv.caches import PRESETS, known_caches
from dkv.core.registry import describe, spell_key
from dkv.decoders import known_decoders
from dkv.lm import DiffusionLM
from dkv.params import DEFAULTS, OPTIONS
from dkv.server.served_defaults import Defaults
from dkv.tokenizer import Tokenizer

__all__ = ["numbers", "options_of"]

_EMBEDDED = {
    "words": "Word problem",
    "lists": "List",
    "convert": "JSON and CSV",
    "lookup": "Look-up",
    "spanish": "Spanish",
    "code": "Code",
}
"""Tasks of the embedded model, with their names on the page."""

_INPUTS = ("gen_length", "block_length", "steps", "temperature", "seed", "cfg_scale")
"""Numbers with an input of their own on the page."""

_LENGTH = 128
"""Of a response unless the page is told otherwise. As a bound it could be longer, but its cells are all drawn."""

_GENERAL = {
    "Word problem": (
        "A baker makes 24 rolls, sells 9 in the morning and twice as many as are left over in the afternoon of the "
        "next day. How many rolls must be baked the next day?"
    ),
    "Explain": "Explain in three sentences why the sky is blue.",
    "Code": "Write a Python function that returns the longest word of a sentence.",
    "List": "List five rivers of Europe, one a line, with a country that each flows through.",
}


def options_of(lm: DiffusionLM, tokenizer: Tokenizer, name: str, max_tokens: int, defaults: Defaults) -> dict[str, Any]:
    """As JSON takes it. name: the model's on the page; max_tokens: of a response, at most; defaults: what a run gets
    where it says nothing."""
    config = lm.model.config
    ends = dict.fromkeys((*config.eos_ids, *tokenizer.turn_end_ids))
    examples, filled = _examples(lm), defaults.fill({})
    return {
        "model": name,
        "family": config.family,
        "context": config.context,
        "end_tokens": [tokenizer.decode([i], keep_special=True) for i in ends],
        "caches": _choices(known_caches()),
        "decoders": _choices(known_decoders()),
        "presets": dict(PRESETS),
        "decoder": config.default_decoder,
        "settings": filled.options,
        "sources": filled.sources,
        "block_length": defaults.fill({"grow": True}).options["block_length"],
        "gen_length": min(_LENGTH, max_tokens),
        "max_tokens": max_tokens,
        "numbers": numbers(),
        "examples": [{"name": name, "prompt": prompt} for name, prompt in examples.items()],
    }


def numbers() -> list[dict[str, Any]]:
    """The options that are numbers and have no input of their own on the page."""
    return [
        {
            "name": name,
            "meaning": option.help,
            "least": option.least,
            "most": option.most if option.kind == "number" else (1 << 31) - 1,
            "whole": option.kind == "whole",
            "unset": option.unset or str(DEFAULTS[name]),
        }
        for name, option in OPTIONS.items()
        if option.kind in ("whole", "number") and name not in _INPUTS
    ]


def _choices(known: Mapping[str, type]) -> list[dict[str, Any]]:
    """Of each its name, keys as `dkv caches` prints them, meaning, and the spec with every key at its default."""
    return [
        {
            "name": entry["name"],
            "spec": _whole_spec(entry),
            "keys": [f"{key} (required)" for key in entry["required"]]
            + [spell_key(key, default) for key, default in entry["keys"].items()],
            "meaning": entry["meaning"],
        }
        for entry in describe(known)
    ]


def _whole_spec(entry: Mapping[str, Any]) -> str:
    """To be edited: a required key is there without its value, a key whose default is None is not."""
    pairs = [f"{key}=" for key in entry["required"]]
    pairs += [spell_key(key, default) for key, default in entry["keys"].items() if default is not None]
    return f"{entry['name']}:{','.join(pairs)}" if pairs else str(entry["name"])


def _examples(lm: DiffusionLM) -> Mapping[str, str]:
    """Prompts by name."""
    if not lm.name.startswith("tiny"):
        return _GENERAL
    from dkv.tiny import load_eval  # the other models need not read its files

    return {title: load_eval(task)[0].prompt for task, title in _EMBEDDED.items()}
