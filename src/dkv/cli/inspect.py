"""`dkv inspect`: what a checkpoint is, what it needs, and whether dkv can run it; no weights are loaded."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import typer

from dkv.cli import options
from dkv.cli.console import print_json, printable

__all__ = ["inspect"]

_Path = Annotated[
    str,
    typer.Argument(metavar="PATH", help="A directory, a config.json, tiny, or a hub id.", show_default=False),
]
_PromptLength = Annotated[int, options.counted("--prompt-length", "Prompt tokens to reckon memory for.")]
_Batch = Annotated[int, options.counted("--batch", "Sequences at a time.")]
_Dtype = Annotated[str, options.named("--dtype", "auto (as stored), float32, bfloat16, ...")]


def inspect(
    path: _Path,
    prompt_length: _PromptLength = 128,
    gen_length: options.GenLength = 128,
    batch: _Batch = 1,
    dtype: _Dtype = "auto",
    quantize: options.Quantize = None,
    as_json: options.Json = False,
) -> None:
    """Show what a checkpoint is and whether dkv can run it.

    Sizes, dtypes, token ids, chat template, memory, and what of it is not supported; no weights are loaded.
    """
    from dkv.cli.facts import MemoryQuestion, facts_of
    from dkv.core.dtypes import named_dtype

    kind = None if dtype == "auto" else named_dtype("dtype", dtype, ("auto",))
    facts = facts_of(path, MemoryQuestion(prompt_length, gen_length, batch, kind, quantize))
    if as_json:
        print_json(facts)
        return
    for name, value in _lines(facts):
        print(f"{name:<14}{printable(value)}")


def _lines(facts: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """What is printed, as names and values."""
    yield "model", facts["model"]
    yield "architecture", str(facts["architecture"])
    for reason in facts["unsupported"]:
        yield "unsupported", reason
    if "sizes" in facts:
        yield from _config_lines(facts)
    weights = facts["weights"]
    if weights is None:
        yield "weights", "none here"
    else:
        dtypes = ", ".join(f"{name} {_count(numbers)}" for name, numbers in weights["dtypes"].items())
        yield "weights", f"{weights['tensors']} tensors in {_plural(weights['files'], 'file')}: {dtypes}"
    if facts["ignored"]:
        yield "ignored", f"{', '.join(facts['ignored'])}; the model is in {facts['chosen_by']}"
    for problem in facts.get("problems", ()):
        yield "problem", problem
    yield "tokenizer", "yes" if facts["tokenizer"] else "no: token ids only"
    yield "chat template", _template_line(facts)
    if "memory" in facts:
        yield from _memory_lines(facts["memory"])


def _template_line(facts: dict[str, Any]) -> str:
    form, note = facts["chat_format"], facts["chat_note"]
    if form is None:
        return "no" if note is None else f"no; {note}"
    if note is not None:
        return f"{'unusable' if form == 'own' else 'replaced'}; {note}"
    return "yes" if form == "own" else f"none here; dkv's own format {form!r}"


def _config_lines(facts: dict[str, Any]) -> Iterator[tuple[str, str]]:
    ids = facts["ids"]
    yield "family", facts["family"]
    yield "parameters", _count(facts["parameters"])
    yield "sizes", ", ".join(f"{name} {value}" for name, value in facts["sizes"].items())
    yield "rotary base", f"{facts['rope_theta']:g}, norm eps {facts['norm_eps']:g}"
    yield "head", "tied to the embedding" if facts["tied"] else "of its own"
    yield "predicts", "the next position (shift 1)" if facts["shift"] else "its own position (shift 0)"
    yield "decoder", facts["decoder"]
    yield "ids", f"mask {ids['mask']}, end-of-text {', '.join(map(str, ids['eos']))}, padding {ids['pad']}"


def _memory_lines(memory: dict[str, Any]) -> Iterator[tuple[str, str]]:
    length = f"prompt {memory['prompt_length']} + response {memory['gen_length']}"
    kind = "" if memory["quantize"] is None else f", {memory['quantize']}"
    beyond = "" if memory["fits_context"] else "; BEYOND THE CONTEXT"
    yield "memory", f"{length}, {_plural(memory['batch'], 'sequence')}, {memory['dtype']}{kind}{beyond}"
    yield "  weights", _bytes(memory["weights"])
    for name, needed in memory["caches"].items():
        yield f"  {name}", _bytes(needed)


def _plural(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


def _count(numbers: int) -> str:
    return _scaled(numbers, ("billion", "million", "thousand")) or str(numbers)


def _bytes(number: int) -> str:
    return _scaled(number, ("GB", "MB", "kB")) or f"{number} bytes"


def _scaled(number: int, units: tuple[str, str, str]) -> str:
    """In the largest unit of 10**9, 10**6 and 10**3 that it fills; empty below them."""
    sizes = zip(units, (10**9, 10**6, 10**3), strict=True)
    return next((f"{number / size:.2f} {unit}" for unit, size in sizes if number >= size), "")
