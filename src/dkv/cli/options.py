"""The options that commands share, spelled as the Python arguments are, with dashes. No checks here: the library's own
errors name argument, value and fix."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from dkv.params import CACHE, DEFAULTS, OPTIONS
from dkv.storage.regular_file import expanded

__all__ = [
    "BatchSize",
    "BlockLength",
    "Caches",
    "CfgScale",
    "Chat",
    "Compile",
    "CudaGraphs",
    "Decoder",
    "Device",
    "Dtype",
    "GenLength",
    "Grow",
    "Ids",
    "Input",
    "Json",
    "Live",
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
    "Svg",
    "TensorParallel",
    "Workers",
    "counted",
    "declared",
    "named",
    "number",
    "numbered",
    "place",
    "placed",
    "switch",
    "whole",
    "with_sampling_options",
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


def declared(name: str, panel: str | None = None, served: bool = False) -> Any:
    """How typer reads an option of `dkv.SamplingParams`. panel: None = as it is grouped there; served: whether it is a
    server's, for requests that do not choose their own."""
    option, dashed = OPTIONS[name], name.replace("_", "-")
    meaning = option.help
    unset = (option.served_unset if served else "") or option.unset
    if option.kind == "texts":
        meaning = f"{meaning.removesuffix('.')}; may be repeated."
    elif unset and (served or DEFAULTS[name] is None):
        meaning += f" Default: {unset}."
    meaning = re.sub(r"\b[a-z]+(_[a-z]+)+\b", lambda found: f"--{found[0].replace('_', '-')}", meaning)
    flags = f"--{dashed}/--no-{dashed}" if option.kind == "switch" else f"--{dashed}"
    makers = {"whole": counted, "number": numbered, "switch": switch}
    if option.kind in makers:
        return makers[option.kind](flags, meaning, panel or option.group)
    metavar = {"spec": "SPEC", "dtype": "NAME", "texts": "TEXT"}[option.kind]
    return named(flags, meaning, panel or option.group, metavar)


def with_sampling_options(
    names: Iterable[str] = OPTIONS, panel: str | None = None, served: bool = False
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A command with an option for each of these fields of `dkv.SamplingParams`, in place of its parameter `sampling`,
    which gets them by name. panel, served: as `declared` has them; a server's are None where they are not given."""

    def wrap(command: Callable[..., None]) -> Callable[..., None]:
        parameters = list(inspect.signature(command, eval_str=True).parameters.values())
        place = next(number for number, each in enumerate(parameters) if each.name == "sampling")
        parameters[place : place + 1] = [_parameter(name, panel, served) for name in names]

        def run(**given: Any) -> None:
            sampling = {name: given.pop(name) for name in names}
            command(sampling=sampling, **given)

        run.__name__, run.__doc__, run.__module__ = command.__name__, command.__doc__, command.__module__
        run.__annotations__ = {each.name: each.annotation for each in parameters}
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        return run

    return wrap


def _parameter(name: str, panel: str | None, served: bool) -> inspect.Parameter:
    kinds: dict[str, Any] = {"whole": int, "number": float, "switch": bool, "texts": list[str]}
    default = None if served else DEFAULTS[name]
    kind = kinds.get(OPTIONS[name].kind, str)
    annotation: Any = Annotated[kind if default is not None else kind | None, declared(name, panel, served)]
    return inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=default, annotation=annotation)


# The panels of the help, in the order in which commands name their options.
_MODEL = "Model"
_PROMPT = "How the prompt is read"
_OUTPUT = "What is shown"
_MANY = "Many prompts, with --input"

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

GenLength = Annotated[int, declared("gen_length")]
BlockLength = Annotated[int | None, declared("block_length")]
Steps = Annotated[int | None, declared("steps")]
Grow = Annotated[bool, declared("grow")]
CfgScale = Annotated[float, declared("cfg_scale")]
Seed = Annotated[int | None, declared("seed")]
Decoder = Annotated[str | None, declared("decoder")]

Caches = Annotated[
    list[str] | None,
    named("--cache", "A cache to compare; may be repeated. Default: none and dkv-decode.", CACHE, "SPEC"),
]
Repeats = Annotated[int, counted("--repeats", "Timed runs of each cache, in turn; medians are shown.", CACHE)]

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
