"""`dkv eval`: accuracy by cache, each paired with no cache on the same examples; interrupted runs go on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dkv.cli import options
from dkv.cli.console import printable, say_loading, stderr_console, stdout_console
from dkv.cli.live import keeping, region
from dkv.errors import SettingError

if TYPE_CHECKING:
    from dkv.lab.eval.eval_session import EvalSession
    from dkv.lab.eval.measured import ResultRow

__all__ = ["evaluate"]

_Tasks = Annotated[
    str | None,
    typer.Option("--tasks", metavar="NAMES", help="Separated by commas. Default: the embedded ones, and files given."),
]
_Gsm8k = Annotated[
    Path | None, typer.Option("--gsm8k", parser=options.place, metavar="PATH", help="A local file for the task gsm8k.")
]
_HumanEval = Annotated[
    Path | None,
    typer.Option("--humaneval", parser=options.place, metavar="PATH", help="A local file for the task humaneval."),
]
_Execute = Annotated[
    bool, typer.Option("--execute-code", help="Allow humaneval to run what the model writes: limited, no network.")
]
_Unconfined = Annotated[
    bool, typer.Option("--unconfined-code", help="Allow lm-eval's own code tasks, which run programs without limits.")
]
_Caches = Annotated[
    list[str] | None,
    typer.Option("--cache", metavar="SPEC", help="Cache; may be repeated. Default: all. none is always measured."),
]
_GenLength = Annotated[
    int | None,
    typer.Option(
        "--gen-length", parser=options.whole, metavar="N", help="Positions of the response. Default: the task's own."
    ),
]
_Seed = Annotated[int, typer.Option("--seed", parser=options.whole, metavar="N", help="Seed of all random choices.")]
_Count = Annotated[
    int | None,
    typer.Option(
        "--count", parser=options.whole, metavar="N", help="Examples of each task. Default: all; embedded ones 24."
    ),
]
_Full = Annotated[bool, typer.Option("--full", help="All 400 examples of each embedded task.")]
_BatchSize = Annotated[
    int, typer.Option("--batch-size", parser=options.whole, metavar="N", help="Prompts that share a batch.")
]
_Out = Annotated[
    Path,
    typer.Option(
        "--out", parser=options.place, metavar="PATH", help="Where answers are kept; a run with them goes on."
    ),
]
_Markdown = Annotated[bool, typer.Option("--markdown", help="Print a Markdown table.")]
_Served = Annotated[
    bool, typer.Option("--served", help="What dkv serve gives a plain request, paired with one token a step, no cache.")
]
_FewShot = Annotated[
    int | None,
    typer.Option(
        "--num-fewshot",
        parser=options.whole,
        metavar="N",
        help="Examples in the prompt of lm-eval's tasks. Default: the task's.",
    ),
]
_Samples = Annotated[
    int,
    typer.Option(
        "--mc-samples", parser=options.whole, metavar="N", help="Draws for each likelihood of lm-eval's tasks."
    ),
]
_Include = Annotated[
    Path | None,
    typer.Option(
        "--include-path", parser=options.place, metavar="DIR", help="A directory of further lm-eval tasks (YAML)."
    ),
]


def evaluate(
    tasks: _Tasks = None,
    model: options.Model = "tiny",
    cache: _Caches = None,
    decoder: options.Decoder = None,
    gen_length: _GenLength = None,
    block_length: options.BlockLength = None,
    steps: options.Steps = None,
    grow: options.Grow = False,
    served: _Served = False,
    cfg_scale: options.CfgScale = 0.0,
    seed: _Seed = 0,
    count: _Count = None,
    full: _Full = False,
    batch_size: _BatchSize = 40,
    out: _Out = Path("dkv-eval.jsonl"),
    gsm8k: _Gsm8k = None,
    humaneval: _HumanEval = None,
    execute_code: _Execute = False,
    num_fewshot: _FewShot = None,
    mc_samples: _Samples = 128,
    include_path: _Include = None,
    unconfined_code: _Unconfined = False,
    chat: options.Chat = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    quantize: options.Quantize = None,
    compile: options.Compile = False,  # noqa: A002 - named as its option
    markdown: _Markdown = False,
    as_json: options.Json = False,
) -> None:
    """Measure the accuracy of each cache, paired with no cache.

    Every figure comes with its count and its 95% interval. Names that are no tasks of dkv are lm-eval's.
    """
    if markdown and as_json:
        raise SettingError("markdown and json exclude each other; give one of them")
    say_loading(model, as_json)
    from dkv.lab.eval.eval_session import CACHES, EvalOptions, EvalSession

    wanted = EvalOptions(
        tasks=tasks, model=model, caches=tuple(cache or CACHES), decoder=decoder, gen_length=gen_length,
        block_length=block_length, steps=steps, cfg_scale=cfg_scale, seed=seed,
        count=count, full=full, batch_size=batch_size, out=out, gsm8k=gsm8k,
        humaneval=humaneval, execute_code=execute_code, num_fewshot=num_fewshot, mc_samples=mc_samples,
        include_path=include_path, unconfined_code=unconfined_code, chat=chat, device=device, dtype=dtype,
        quantize=quantize, compile=compile, grow=grow, served=served,
    )  # fmt: skip
    session = EvalSession(wanted)
    with session.store:
        rows = _run(session, out)
    if as_json:
        from dkv.cli.record import print_json
        from dkv.lab.eval.eval_table import as_json as json_of

        print_json({**session.common, "out": str(out), "results": [json_of(row) for row in rows]})
    else:
        _print(rows, markdown)


def _run(session: EvalSession, out: Path) -> list[ResultRow]:
    """Run what is missing."""
    with (
        keeping(lambda: f"{len(session.store)} results are kept in {out}"),
        region(stderr_console()) as show,
    ):
        return session.run(lambda note: None if show is None else show(printable(note)))


def _print(rows: list[ResultRow], markdown: bool) -> None:
    from dkv.lab.eval.eval_table import HEADINGS, cells
    from dkv.lab.eval.eval_table import markdown as markdown_of

    if markdown:
        print(printable(markdown_of(rows)))
        return
    from rich.table import Table
    from rich.text import Text

    table = Table(show_lines=True)
    for heading in HEADINGS:
        table.add_column(
            heading, overflow="fold", justify="right" if heading in ("agree", "rows", "tokens/s") else "left"
        )
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in cells(row)))
    stdout_console().print(table)
