"""`dkv generate`: one prompt in, its text out; `--live` shows the canvas on the way. `--input` takes many prompts."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dkv.cli import options
from dkv.cli.console import is_terminal, print_json, printable, say_loading, stderr_console
from dkv.cli.guard import forgive_encoding
from dkv.cli.prompt import read_prompt, read_stops
from dkv.errors import SettingError

if TYPE_CHECKING:
    from dkv.cli.live import View
    from dkv.lm import DiffusionLM
    from dkv.outputs import Frame, Generation

__all__ = ["generate"]


@options.with_sampling_options()
def generate(
    prompt: options.PromptOrNone = None,
    model: options.Model = "tiny",
    sampling: Any = None,
    chat: options.Chat = None,
    parse_special: options.ParseSpecial = False,
    ids: options.Ids = False,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    quantize: options.Quantize = None,
    tensor_parallel: options.TensorParallel = 1,
    compile: options.Compile = False,  # noqa: A002 - named as its option
    cuda_graphs: options.CudaGraphs = False,
    live: options.Live = False,
    svg: options.Svg = None,
    as_json: options.Json = False,
    input: options.Input = None,  # noqa: A002 - named as its option
    output: options.Output = None,
    batch_size: options.BatchSize = 32,
    skip_bad: options.SkipBad = False,
    ray: options.Ray = False,
    workers: options.Workers = None,
) -> None:
    """Generate a response to PROMPT, or to each line of a file.

    The text goes to standard output, a line of counts to standard error. With --input, what is finished stays, and the
    same command goes on from there.
    """
    arguments = {**sampling, "stop": read_stops(sampling["stop"]), "chat": chat, "parse_special": parse_special}
    if input is not None:
        from dkv.cli.batch import run_batch

        split = None if tensor_parallel == 1 else tensor_parallel
        single = {
            "prompt": prompt, "ids": ids, "live": live, "svg": svg, "json": as_json, "tensor_parallel": split,
            "cuda_graphs": cuda_graphs,
        }  # fmt: skip
        _refuse(single, "excludes input; leave input out")
        seed = arguments.pop("seed")
        batch = dict[str, Any](
            input=input, arguments=arguments, model=model, device=device, dtype=dtype, seed=seed, quantize=quantize,
            compile=compile, batch_size=batch_size, skip_bad=skip_bad, ray=ray, workers=workers,
        )  # fmt: skip
        run_batch(output, batch)
        return
    _refuse({"output": output, "skip_bad": skip_bad, "ray": ray, "workers": workers}, "needs input; give --input FILE")
    if prompt is None:
        raise SettingError("prompt: none is given; give PROMPT, or --input FILE")
    given = read_prompt(prompt, ids)
    if svg is not None and (svg.is_dir() or not svg.parent.is_dir()):
        raise SettingError(f"svg={str(svg)!r} must be a file in a directory that exists")
    loading = dict[str, Any](
        device=device, dtype=dtype, quantize=quantize, tensor_parallel=tensor_parallel, compile=compile,
        cuda_graphs=cuda_graphs,
    )  # fmt: skip
    job = _Job(model, loading, given, arguments)
    if tensor_parallel == 1:
        _run(job, live, svg, as_json)
        return
    from dkv.distributed.launch import launch
    from dkv.layers.quantized import check_kind

    check_kind(quantize, tensor_parallel)
    launch(tensor_parallel, _run_rank, job, live, svg, as_json)


@dataclass(frozen=True)
class _Job:
    """What is to be generated: a model and how to load it, a prompt and the arguments of `generate`."""

    model: str
    loading: dict[str, Any]
    prompt: str | list[int]
    arguments: dict[str, Any]


def _run_rank(job: _Job, live: bool, svg: Path | None, as_json: bool) -> None:
    """What every rank does; what they print, and files, are the first one's."""
    if os.environ["RANK"] == "0":
        forgive_encoding()
        _run(job, live, svg, as_json)
        return
    import dkv

    lm = dkv.load(job.model, **job.loading)
    if live or svg is not None:
        list(lm.stream(job.prompt, **job.arguments))
    else:
        lm.generate([job.prompt], **job.arguments)


def _run(job: _Job, live: bool, svg: Path | None, as_json: bool) -> None:
    say_loading(job.model, as_json)
    import dkv

    lm = dkv.load(job.model, **job.loading)
    _tell_control_strings(lm, job)
    if not live and svg is None:
        _report(lm, lm.generate([job.prompt], progress=is_terminal(sys.stderr), **job.arguments)[0], as_json)
        _tell_warmth(lm)
        return
    view, frames = _watch(lm, job.prompt, job.arguments, live, keep=svg is not None)
    _report(lm, frames[-1].generation, as_json)
    _tell_warmth(lm)
    if svg is not None:
        from dkv.cli.live import save_picture

        save_picture(svg, view, frames)


def _tell_control_strings(lm: DiffusionLM, job: _Job) -> None:
    """Say on standard error that a text holds strings of control tokens, which are plain text in it."""
    if lm.tokenizer is None or not isinstance(job.prompt, str) or job.arguments["parse_special"]:
        return
    if found := lm.tokenizer.control_strings(job.prompt):
        held = ", ".join(map(repr, found))
        line = f"note: the prompt holds {held} as plain text; --parse-special reads control tokens in a rendered prompt"
        print(printable(line), file=sys.stderr)


def _refuse(given: dict[str, Any], why: str) -> None:
    """Raise SettingError for an option that would do nothing."""
    for name, value in given.items():
        if value is not None and value is not False:
            raise SettingError(f"{name} {why}, or leave {name} out")


def _watch(
    lm: DiffusionLM, prompt: str | list[int], arguments: dict[str, Any], live: bool, keep: bool
) -> tuple[View, list[Frame]]:
    """Generate with the live view on standard error: how to draw, and the frames (the last one, unless `keep`)."""
    from dkv.cli.live import View, watch

    shown = prompt if isinstance(prompt, str) else f"{len(prompt)} token ids"
    view = View(lm, shown, arguments["cache"])
    return view, watch(lm.stream(prompt, **arguments), view, stderr_console() if live else None, keep)


def _tell_warmth(lm: DiffusionLM) -> None:
    """A line on standard error for each way of faster forwards that was asked for: what it took, or why it is not."""
    for name, warmth in lm.compile_report.items():
        print(printable(f"{name}: {warmth}"), file=sys.stderr)


def _report(lm: DiffusionLM, generation: Generation | None, as_json: bool) -> None:
    from dkv.cli.record import record_of, shown_text, summary_of

    if generation is None:
        raise RuntimeError("the stream ended without a result")
    if as_json:
        where = {"model": lm.name, "device": str(lm.model.device), "dtype": str(lm.model.dtype).removeprefix("torch.")}
        print_json({**record_of(generation), **where, "quantize": lm.quantize})
        return
    print(printable(shown_text(generation)), flush=True)
    print(printable(summary_of(generation)), file=sys.stderr)
