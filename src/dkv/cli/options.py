"""The options that commands share, spelled as the Python arguments are, with dashes. No checks here: the library's own
errors name argument, value and fix."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from dkv.regular_file import expanded

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


def _whole(name: str, meaning: str, **more: Any) -> Any:
    return typer.Option(name, parser=whole, metavar="N", help=meaning, **more)


def _number(name: str, meaning: str) -> Any:
    return typer.Option(name, parser=number, metavar="X", help=meaning)


def _text(name: str, meaning: str, metavar: str = "NAME") -> Any:
    return typer.Option(name, metavar=metavar, help=meaning)


_AS_LONG = "Default: as --gen-length."

Prompt = Annotated[
    str, typer.Argument(metavar="PROMPT", help="The prompt; - reads it from standard input.", show_default=False)
]
PromptOrNone = Annotated[
    str | None,
    typer.Argument(metavar="PROMPT", help="The prompt; - reads it from standard input.", show_default=False),
]
Input = Annotated[
    Path | None,
    typer.Option(
        "--input", parser=place, metavar="FILE", help="Instead of PROMPT: JSON lines with prompt, messages or question."
    ),
]
Output = Annotated[
    Path | None,
    typer.Option(
        "--output", parser=place, metavar="FILE", help="Of --input: a JSON line an answer; - is standard output."
    ),
]
BatchSize = Annotated[int, _whole("--batch-size", "Of --input: prompts that are generated for at once.")]
Ray = Annotated[bool, typer.Option("--ray", help="Of --input: spread it over Ray workers, here or at RAY_ADDRESS.")]
Workers = Annotated[int | None, _whole("--workers", "Of --ray: each loads the model. Default: the GPUs, else 2.")]
SkipBad = Annotated[
    bool, typer.Option("--skip-bad", help="Of --input: answer a bad line by its error. Default: nothing is run.")
]
Model = Annotated[str, _text("--model", "tiny (the embedded model), a directory, or a hub id (owner/name[@revision]).")]
Device = Annotated[str, _text("--device", "auto, cpu, cuda, ...")]
TensorParallel = Annotated[
    int, _whole("--tensor-parallel", "Split the model over so many processes, each with a GPU if there are any.")
]
Compile = Annotated[bool, typer.Option("--compile", help="Build faster code for this machine.")]
CudaGraphs = Annotated[bool, typer.Option("--cuda-graphs", help="Record forwards and replay them; GPU only.")]
Dtype = Annotated[str, _text("--dtype", "auto, float32, bfloat16, ...")]
Quantize = Annotated[str | None, _text("--quantize", "Keep the layers' weights in 8 or 4 bits: int8, int4.")]
GenLength = Annotated[int, _whole("--gen-length", "Canvas length of the response.")]
BlockLength = Annotated[int | None, _whole("--block-length", f"Tokens per block, decoded in turn. {_AS_LONG}")]
Steps = Annotated[int | None, _whole("--steps", f"Denoising steps of the whole response. {_AS_LONG}")]
Temperature = Annotated[float, _number("--temperature", "0 takes the most likely token.")]
TopP = Annotated[float | None, _number("--top-p", "Sample from this share of the probability.")]
TopK = Annotated[int | None, _whole("--top-k", "Sample from this many tokens.")]
CfgScale = Annotated[float, _number("--cfg-scale", "Strength of classifier-free guidance.")]
Seed = Annotated[int | None, _whole("--seed", "Of all random choices. Default: drawn, and reported.")]
Repeats = Annotated[int, _whole("--repeats", "Timed runs of each cache, in turn; medians are shown.")]
Cache = Annotated[str, _text("--cache", "Cache; `dkv caches` lists them.", "SPEC")]
Caches = Annotated[list[str] | None, _text("--cache", "Cache; may be repeated. Default: none and dkv-decode.", "SPEC")]
Decoder = Annotated[str | None, _text("--decoder", "Unmasking rule. Default: the model family's own.", "SPEC")]
CacheDtype = Annotated[str | None, _text("--cache-dtype", "Of keys and values. Default: the model's.")]
Stop = Annotated[list[str] | None, _text("--stop", "Stop before this text; may be repeated.", "TEXT")]
StopAtEos = Annotated[
    bool, typer.Option("--stop-at-eos/--no-stop-at-eos", help="Finish once all before the end-of-text is decided.")
]
EosPenalty = Annotated[float, _number("--eos-penalty", "Taken from the logits of what ends a text. 0 = nothing.")]
MinTokens = Annotated[int, _whole("--min-tokens", "No end of the text among so many first positions.")]
Grow = Annotated[bool, typer.Option("--grow/--no-grow", help="Add a block at a time, up to --gen-length.")]
Chat = Annotated[bool | None, typer.Option("--chat/--no-chat", help="Use the chat template. Default: if there is one.")]
ParseSpecial = Annotated[
    bool, typer.Option("--parse-special", help="The prompt is rendered already: control tokens in it count as such.")
]
Ids = Annotated[bool, typer.Option("--ids", help="The prompt is token ids, separated by blanks or commas.")]
Live = Annotated[bool, typer.Option("--live", help="Show the canvas denoise on a terminal. Counts in the seconds.")]
Svg = Annotated[
    Path | None, typer.Option("--svg", parser=place, metavar="PATH", help="Save a frame of the live view as a picture.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one machine-readable JSON object.")]
