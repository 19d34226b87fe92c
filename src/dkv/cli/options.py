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
    "counted",
    "named",
    "number",
    "numbered",
    "place",
    "placed",
    "switch",
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


def counted(name: str, meaning: str, panel: str | None = None, metavar: str = "N") -> Any:
    """An option whose value is a whole number. panel: of the help, None = without one."""
    return _option(name, meaning, panel, parser=whole, metavar=metavar)


def numbered(name: str, meaning: str, panel: str | None = None, metavar: str = "X") -> Any:
    """An option whose value is a number."""
    return _option(name, meaning, panel, parser=number, metavar=metavar)


def placed(name: str, meaning: str, panel: str | None = None, metavar: str = "PATH") -> Any:
    """An option whose value is a path."""
    return _option(name, meaning, panel, parser=place, metavar=metavar)


def named(name: str, meaning: str, panel: str | None = None, metavar: str = "NAME") -> Any:
    """An option whose value is a text."""
    return _option(name, meaning, panel, metavar=metavar)


def switch(name: str, meaning: str, panel: str | None = None) -> Any:
    """An option that is given or not."""
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
    str, named("--model", "tiny (the embedded model), a directory, or a hub id (owner/name[@revision]).", _MODEL)
]
Device = Annotated[str, named("--device", "auto, cpu, cuda, ...", _MODEL)]
Dtype = Annotated[str, named("--dtype", "auto, float32, bfloat16, ...", _MODEL)]
Quantize = Annotated[str | None, named("--quantize", "Keep the layers' weights in 8 or 4 bits: int8, int4.", _MODEL)]
TensorParallel = Annotated[
    int,
    counted("--tensor-parallel", "Split the model over this many processes, each with a GPU if there are any.", _MODEL),
]
Compile = Annotated[bool, switch("--compile", "Build faster code for this machine first.", _MODEL)]
CudaGraphs = Annotated[bool, switch("--cuda-graphs", "Record forwards and replay them; GPU only.", _MODEL)]

GenLength = Annotated[int, counted("--gen-length", "Positions of the response: the length of the canvas.", _LENGTH)]
BlockLength = Annotated[
    int | None, counted("--block-length", f"Positions per block; blocks are decoded in turn. {_AS_LONG}", _LENGTH)
]
Steps = Annotated[int | None, counted("--steps", f"Denoising steps for the whole response. {_AS_LONG}", _LENGTH)]
Grow = Annotated[
    bool, switch("--grow/--no-grow", "Begin with one block and add blocks as needed, up to --gen-length.", _LENGTH)
]
Stop = Annotated[list[str] | None, named("--stop", "End the text before this one; may be repeated.", _LENGTH, "TEXT")]
StopAtEos = Annotated[
    bool, switch("--stop-at-eos/--no-stop-at-eos", "End as soon as all before the end-of-text is decided.", _LENGTH)
]
EosPenalty = Annotated[
    float, numbered("--eos-penalty", "Subtract this from the logits of the tokens that end a text.", _LENGTH)
]
MinTokens = Annotated[
    int, counted("--min-tokens", "Do not let the text end within this many first positions.", _LENGTH)
]

Temperature = Annotated[float, numbered("--temperature", "0 takes the most likely token.", _SAMPLING)]
TopP = Annotated[float | None, numbered("--top-p", "Sample from this share of the probability.", _SAMPLING)]
TopK = Annotated[int | None, counted("--top-k", "Sample from this many tokens.", _SAMPLING)]
CfgScale = Annotated[float, numbered("--cfg-scale", "Strength of classifier-free guidance; 0 is none.", _SAMPLING)]
Seed = Annotated[
    int | None, counted("--seed", "Seed of all random choices. Default: one is drawn and reported.", _SAMPLING)
]

Cache = Annotated[str, named("--cache", "The cache; `dkv caches` lists them.", _CACHE, "SPEC")]
Caches = Annotated[
    list[str] | None,
    named("--cache", "A cache to compare; may be repeated. Default: none and dkv-decode.", _CACHE, "SPEC"),
]
Decoder = Annotated[
    str | None, named("--decoder", "The unmasking rule. Default: that of the model's family.", _CACHE, "SPEC")
]
CacheDtype = Annotated[
    str | None, named("--cache-dtype", "The dtype of cached keys and values. Default: the model's.", _CACHE)
]
Repeats = Annotated[int, counted("--repeats", "Timed runs of each cache, in turn; medians are shown.", _CACHE)]

Chat = Annotated[
    bool | None, switch("--chat/--no-chat", "Use the chat template. Default: if the model has one.", _PROMPT)
]
ParseSpecial = Annotated[
    bool, switch("--parse-special", "PROMPT is rendered already: control tokens in it count as such.", _PROMPT)
]
Ids = Annotated[bool, switch("--ids", "PROMPT is token ids, separated by blanks or commas.", _PROMPT)]

Live = Annotated[
    bool, switch("--live", "Show the canvas while it denoises; the drawing counts in the time shown.", _OUTPUT)
]
Svg = Annotated[Path | None, placed("--svg", "Save a frame of the live view as a picture.", _OUTPUT, "PATH")]
Json = Annotated[bool, switch("--json", "Print one machine-readable JSON object.", _OUTPUT)]

Input = Annotated[
    Path | None,
    placed("--input", "Read JSON lines with prompt, messages or question.", _MANY, "FILE"),
]
Output = Annotated[
    Path | None,
    placed("--output", "Write a JSON line for each answer; - is standard output.", _MANY, "FILE"),
]
BatchSize = Annotated[int, counted("--batch-size", "Prompts that are generated for at the same time.", _MANY)]
SkipBad = Annotated[
    bool, switch("--skip-bad", "Answer a bad line with its error. Default: a bad line stops the job.", _MANY)
]
Ray = Annotated[bool, switch("--ray", "Spread the job over Ray workers, here or at RAY_ADDRESS.", _MANY)]
Workers = Annotated[
    int | None, counted("--workers", "Ray workers; each loads the model. Default: one per GPU, else 2.", _MANY)
]
