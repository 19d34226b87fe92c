"""The options that commands share, spelled as the Python arguments are, with dashes. No checks here: the library's own
errors name argument, value and fix."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from dkv.storage.regular_file import expanded

__all__ = [
    "BatchSize",
    "BlockLength",
    "Cache",
    "CacheDtype",
    "Caches",
    "CfgScale",
    "Chat",
    "Compile",
    "CudaGraphs",
    "Decoder",
    "Device",
    "Dtype",
    "EosPenalty",
    "GenLength",
    "Grow",
    "Ids",
    "Input",
    "Json",
    "Live",
    "MinTokens",
    "Model",
    "Output",
    "ParseSpecial",
    "Prompt",
    "PromptOrNone",
    "Quantize",
    "Ray",
    "Repeats",
    "Seed",
    "SkipBad",
    "Steps",
    "Stop",
    "StopAtEos",
    "Svg",
    "Temperature",
    "TensorParallel",
    "TopK",
    "TopP",
    "Workers",
    "number",
    "place",
    "whole",
]


def whole(text: str | int) -> int:
    """An option's value as a whole number. typer's own parsers leave the value out of their message."""
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a whole number") from None


def place(text: str | Path) -> Path:
    """An option's value as a path, ~ being one's home also where the shell leaves it as it is (--out=~/x)."""
    return expanded(text) or Path(text)


def number(text: str | float) -> float:
    """An option's value as a number."""
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a number") from None


def _option(name: str, meaning: str, panel: str | None, **more: Any) -> Any:
    return typer.Option(name, help=meaning, rich_help_panel=panel, **more)


def _whole(name: str, meaning: str, panel: str | None = None) -> Any:
    return _option(name, meaning, panel, parser=whole, metavar="N")


def _number(name: str, meaning: str, panel: str | None = None) -> Any:
    return _option(name, meaning, panel, parser=number, metavar="X")


def _text(name: str, meaning: str, panel: str | None = None, metavar: str = "NAME") -> Any:
    return _option(name, meaning, panel, metavar=metavar)


def _flag(name: str, meaning: str, panel: str | None = None) -> Any:
    return _option(name, meaning, panel)


# The panels of the help, in the order in which commands name their options.
_MODEL = "Model"
_LENGTH = "Length and end of the text"
_SAMPLING = "Sampling"
_CACHE = "Cache and decoder"
_PROMPT = "How the prompt is read"
_OUTPUT = "What is shown"
_MANY = "Many prompts, with --input"

_AS_LONG = "Default: the same as --gen-length."

Prompt = Annotated[
    str, typer.Argument(metavar="PROMPT", help="The prompt; - reads it from standard input.", show_default=False)
]
PromptOrNone = Annotated[
    str | None,
    typer.Argument(metavar="PROMPT", help="The prompt; - reads it from standard input.", show_default=False),
]

Model = Annotated[
    str, _text("--model", "tiny (the embedded model), a directory, or a hub id (owner/name[@revision]).", _MODEL)
]
Device = Annotated[str, _text("--device", "auto, cpu, cuda, ...", _MODEL)]
Dtype = Annotated[str, _text("--dtype", "auto, float32, bfloat16, ...", _MODEL)]
Quantize = Annotated[str | None, _text("--quantize", "Keep the layers' weights in 8 or 4 bits: int8, int4.", _MODEL)]
TensorParallel = Annotated[
    int,
    _whole("--tensor-parallel", "Split the model over this many processes, each with a GPU if there are any.", _MODEL),
]
Compile = Annotated[bool, _flag("--compile", "Build faster code for this machine first.", _MODEL)]
CudaGraphs = Annotated[bool, _flag("--cuda-graphs", "Record forwards and replay them; GPU only.", _MODEL)]

GenLength = Annotated[int, _whole("--gen-length", "Positions of the response: the length of the canvas.", _LENGTH)]
BlockLength = Annotated[
    int | None, _whole("--block-length", f"Positions per block; blocks are decoded in turn. {_AS_LONG}", _LENGTH)
]
Steps = Annotated[int | None, _whole("--steps", f"Denoising steps for the whole response. {_AS_LONG}", _LENGTH)]
Grow = Annotated[
    bool, _flag("--grow/--no-grow", "Begin with one block and add blocks as needed, up to --gen-length.", _LENGTH)
]
Stop = Annotated[list[str] | None, _text("--stop", "End the text before this one; may be repeated.", _LENGTH, "TEXT")]
StopAtEos = Annotated[
    bool, _flag("--stop-at-eos/--no-stop-at-eos", "End as soon as all before the end-of-text is decided.", _LENGTH)
]
EosPenalty = Annotated[
    float, _number("--eos-penalty", "Subtract this from the logits of the tokens that end a text.", _LENGTH)
]
MinTokens = Annotated[int, _whole("--min-tokens", "Do not let the text end within this many first positions.", _LENGTH)]

Temperature = Annotated[float, _number("--temperature", "0 takes the most likely token.", _SAMPLING)]
TopP = Annotated[float | None, _number("--top-p", "Sample from this share of the probability.", _SAMPLING)]
TopK = Annotated[int | None, _whole("--top-k", "Sample from this many tokens.", _SAMPLING)]
CfgScale = Annotated[float, _number("--cfg-scale", "Strength of classifier-free guidance; 0 is none.", _SAMPLING)]
Seed = Annotated[
    int | None, _whole("--seed", "Seed of all random choices. Default: one is drawn and reported.", _SAMPLING)
]

Cache = Annotated[str, _text("--cache", "The cache; `dkv caches` lists them.", _CACHE, "SPEC")]
Caches = Annotated[
    list[str] | None,
    _text("--cache", "A cache to compare; may be repeated. Default: none and dkv-decode.", _CACHE, "SPEC"),
]
Decoder = Annotated[
    str | None, _text("--decoder", "The unmasking rule. Default: that of the model's family.", _CACHE, "SPEC")
]
CacheDtype = Annotated[
    str | None, _text("--cache-dtype", "The dtype of cached keys and values. Default: the model's.", _CACHE)
]
Repeats = Annotated[int, _whole("--repeats", "Timed runs of each cache, in turn; medians are shown.", _CACHE)]

Chat = Annotated[
    bool | None, _flag("--chat/--no-chat", "Use the chat template. Default: if the model has one.", _PROMPT)
]
ParseSpecial = Annotated[
    bool, _flag("--parse-special", "PROMPT is rendered already: control tokens in it count as such.", _PROMPT)
]
Ids = Annotated[bool, _flag("--ids", "PROMPT is token ids, separated by blanks or commas.", _PROMPT)]

Live = Annotated[
    bool, _flag("--live", "Show the canvas while it denoises; the drawing counts in the time shown.", _OUTPUT)
]
Svg = Annotated[
    Path | None, _option("--svg", "Save a frame of the live view as a picture.", _OUTPUT, parser=place, metavar="PATH")
]
Json = Annotated[bool, _flag("--json", "Print one machine-readable JSON object.", _OUTPUT)]

Input = Annotated[
    Path | None,
    _option("--input", "Read JSON lines with prompt, messages or question.", _MANY, parser=place, metavar="FILE"),
]
Output = Annotated[
    Path | None,
    _option(
        "--output", "Write a JSON line for each answer; - is standard output.", _MANY, parser=place, metavar="FILE"
    ),
]
BatchSize = Annotated[int, _whole("--batch-size", "Prompts that are generated for at the same time.", _MANY)]
SkipBad = Annotated[
    bool, _flag("--skip-bad", "Answer a bad line with its error. Default: a bad line stops the job.", _MANY)
]
Ray = Annotated[bool, _flag("--ray", "Spread the job over Ray workers, here or at RAY_ADDRESS.", _MANY)]
Workers = Annotated[
    int | None, _whole("--workers", "Ray workers; each loads the model. Default: one per GPU, else 2.", _MANY)
]
