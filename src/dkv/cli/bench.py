"""`dkv bench`: caches over lengths, batches and dtypes, each finished group kept at once; `dkv report` shows them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from dkv.cli import options
from dkv.cli.console import print_json, print_table, say_loading
from dkv.cli.options import counted, named, placed, switch
from dkv.errors import SettingError

if TYPE_CHECKING:
    from dkv.core.model import ModelConfig
    from dkv.lab.bench.rows import BenchRow

__all__ = ["bench"]

_CACHES = (
    "none", "dkv-decode", "dkv-greedy", "dkv-prefill", "dkv-pd", "dllm-cache", "fast-prefix", "fast-dual",
)  # fmt: skip


_SHOWN = ("cache", "tokens/s", "s/step", "CPU speed-up", "FLOPs saved", "agreement", "of roofline", "of AR", "J/token")
"""The columns that fit a terminal; the page of `dkv report` has them all."""

_LIST = "N,N,..."
_Shape = Annotated[
    str | None,
    named("--shape", "Random weights of this shape instead: llada-8b,layers=2 and the like.", metavar="SPEC"),
]
_Caches = Annotated[
    list[str] | None,
    named("--cache", "Cache; may be repeated. Default: one of each. none always runs.", metavar="SPEC"),
]
_Prompts = Annotated[str, named("--prompt-length", "Lengths of the prompt, in tokens.", metavar=_LIST)]
_Gens = Annotated[str, named("--gen-length", "Lengths of the response; it takes as many steps.", metavar=_LIST)]
_Batches = Annotated[str, named("--batch", "Numbers of sequences in a batch.", metavar=_LIST)]
_Block = Annotated[int, counted("--block-length", "Tokens per block.")]
_Decoder = Annotated[str | None, named("--decoder", "Unmasking rule. Default: the model family's own.", metavar="SPEC")]
_Seed = Annotated[int, counted("--seed", "Seed of the prompts and of all random choices.")]
_Stop = Annotated[
    bool,
    switch("--stop-at-eos/--fill", "End with the text, or fill the canvas so that every cache takes every step."),
]
_Baseline = Annotated[str | None, named("--baseline", "ar: also run the same weights token by token.", metavar="ar")]
_Repeats = Annotated[int, counted("--repeats", "Timed runs of each. 0 only counts operations; no model is run.")]
_Dtypes = Annotated[str, named("--dtype", "auto, float32, bfloat16, ...", metavar="NAME,...")]
_Out = Annotated[
    Path, placed("--out", "The results are added to this file; what is in it is not run again.", metavar="FILE")
]


def bench(
    model: options.Model = "tiny",
    shape: _Shape = None,
    cache: _Caches = None,
    prompt_length: _Prompts = "64,256",
    gen_length: _Gens = "32,64,128",
    batch: _Batches = "1",
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
    _print_tables(session.rows)
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


def _print_tables(rows: list[BenchRow]) -> None:
    """A table for each point of the grid, then the exponents."""
    from dkv.lab.bench.columns import COLUMNS, growth_lines
    from dkv.lab.bench.exponents import growths
    from dkv.lab.common.grouping import grouped

    columns = [column for column in COLUMNS if column.title in _SHOWN]
    for group in grouped(rows, lambda row: row.cell.point).values():
        cell = group[0].cell
        print(f"{cell.model}, {cell.numbers}, prompt {cell.prompt}, gen {cell.gen}, batch {cell.batch}")
        known = [column for column in columns if any(column.text(row) for row in group)]
        print_table([c.title for c in known], ([c.text(row) for c in known] for row in group), left=("cache",))
    titles, found = growth_lines(growths(rows))
    if found:
        print("growth of the whole cost with the length")
        print_table(titles, found, left=("cache",))


def _print_json(out: Path, rows: list[BenchRow]) -> None:
    from dataclasses import asdict

    from dkv.lab.bench.exponents import growths

    exponents = [asdict(growth) for growth in growths(rows)]
    print_json({"file": str(out), "rows": [row.record for row in rows], "exponents": exponents})
