"""`dkv bench`: caches over lengths, batches and dtypes, each finished group kept at once; `dkv report` shows them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dkv.cli import options
from dkv.cli.console import print_json, say_loading
from dkv.errors import SettingError

if TYPE_CHECKING:
    from dkv.core.model import ModelConfig
    from dkv.lab.bench.rows import BenchRow

__all__ = ["bench"]

_CACHES = (
    "none", "dkv-decode", "dkv-greedy", "dkv-prefill", "dkv-pd", "dllm-cache", "fast-prefix", "fast-dual",
)  # fmt: skip


def _numbers(name: str, meaning: str) -> Any:
    return typer.Option(name, metavar="N,N,...", help=meaning)


_Shape = Annotated[
    str | None,
    typer.Option(
        "--shape", metavar="SPEC", help="Random weights of this shape instead: llada-8b,layers=2 and the like."
    ),
]
_Caches = Annotated[
    list[str] | None,
    typer.Option("--cache", metavar="SPEC", help="Cache; may be repeated. Default: one of each. none always runs."),
]
_Block = Annotated[int, typer.Option("--block-length", parser=options.whole, metavar="N", help="Tokens per block.")]
_Decoder = Annotated[
    str | None, typer.Option("--decoder", metavar="SPEC", help="Unmasking rule. Default: the model family's own.")
]
_Seed = Annotated[
    int,
    typer.Option("--seed", parser=options.whole, metavar="N", help="Seed of the prompts and of all random choices."),
]
_Stop = Annotated[
    bool,
    typer.Option(
        "--stop-at-eos/--fill", help="End with the text, or fill the canvas so that every cache takes every step."
    ),
]
_Baseline = Annotated[
    str | None, typer.Option("--baseline", metavar="ar", help="ar: also run the same weights token by token.")
]
_Repeats = Annotated[
    int,
    typer.Option(
        "--repeats",
        parser=options.whole,
        metavar="N",
        help="Timed runs of each. 0 only counts operations; no model is run.",
    ),
]
_Dtypes = Annotated[str, typer.Option("--dtype", metavar="NAME,...", help="auto, float32, bfloat16, ...")]
_Out = Annotated[
    Path,
    typer.Option(
        "--out",
        parser=options.place,
        metavar="FILE",
        help="The results are added to this file; what is in it is not run again.",
    ),
]


def bench(
    model: options.Model = "tiny",
    shape: _Shape = None,
    cache: _Caches = None,
    prompt_length: Annotated[str, _numbers("--prompt-length", "Lengths of the prompt, in tokens.")] = "64,256",
    gen_length: Annotated[
        str, _numbers("--gen-length", "Lengths of the response; it takes as many steps.")
    ] = "32,64,128",
    batch: Annotated[str, _numbers("--batch", "Numbers of sequences in a batch.")] = "1",
    dtype: _Dtypes = "auto",
    quantize: options.Quantize = None,
    compile: options.Compile = False,  # noqa: A002 - named as its option
    block_length: _Block = 32,
    decoder: _Decoder = None,
    stop_at_eos: _Stop = False,
    baseline: _Baseline = None,
    repeats: _Repeats = 3,
    seed: _Seed = 0,
    device: options.Device = "auto",
    out: _Out = Path("bench.jsonl"),
    as_json: options.Json = False,
) -> None:
    """Measure speed, work and memory of caches.

    All caches take their steps in turn, so that a change of the machine's speed meets all alike. Interrupt it at any
    time; the same command goes on with what is missing.
    """
    lengths = {"prompt_length": prompt_length, "gen_length": gen_length, "batch": batch}
    numbers = {name: _whole_numbers(name, text) for name, text in lengths.items()}
    if shape is not None and model != "tiny":
        raise SettingError(f"shape={shape!r}: with --model {model} there is nothing to draw; give one of the two")
    say_loading(model if shape is None else shape, as_json)
    import torch

    from dkv.cli.benchrun import run
    from dkv.cli.benchtable import print_tables
    from dkv.lab.bench.bench_session import BenchSession
    from dkv.lab.bench.grid import Grid
    from dkv.loading import find_device, find_dtype

    config, place = _config(model, shape), find_device(device)
    names = [str(find_dtype(name.strip(), place)).removeprefix("torch.") for name in dtype.split(",")]
    grid = Grid(
        model=model if shape is None else f"shape:{shape}",
        device=str(place),
        caches=cache or _CACHES,
        dtypes=names,
        prompts=numbers["prompt_length"],
        gens=numbers["gen_length"],
        batches=numbers["batch"],
        block=block_length,
        decoder=config.default_decoder if decoder is None else decoder,
        seed=seed,
        stop_at_eos=stop_at_eos,
        baseline=baseline or "",
        threads=torch.get_num_threads(),
        repeats=repeats,
        quantize=quantize,
        compile=compile,
    )
    session = BenchSession(grid, config, shape is not None, out, place)
    run(session)
    if as_json:
        _print_json(out, session.rows)
        return
    print_tables(session.rows)
    print(f"{len(session.rows)} rows in {out}; `dkv report {out}` makes a page of them")


def _config(model: str, shape: str | None) -> ModelConfig:
    from dkv.lab.bench.bench_session import config_of
    from dkv.lab.bench.shapes import named_shape

    return config_of(model) if shape is None else named_shape(shape)


def _whole_numbers(name: str, text: str) -> list[int]:
    """The numbers of a list such as "64,256". Raises SettingError."""
    parts = [part.strip() for part in text.split(",")]
    for part in parts:
        if not (part.isascii() and part.isdigit() and int(part)):
            raise SettingError(f"{name}={text!r}: {part!r} is not a whole number of at least 1; write {name}=64,256")
    return [int(part) for part in parts]


def _print_json(out: Path, rows: list[BenchRow]) -> None:
    from dataclasses import asdict

    from dkv.lab.bench.exponents import growths

    exponents = [asdict(growth) for growth in growths(rows)]
    print_json({"file": str(out), "rows": [row.record for row in rows], "exponents": exponents})
