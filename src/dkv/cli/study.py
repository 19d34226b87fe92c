"""`dkv study`: the field's experiments, each with its claim, a plot and a verdict by a rule; interrupted ones go on."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dkv.cli import options
from dkv.cli.console import print_json, printable, say_loading, stderr_console
from dkv.cli.live import keeping, region
from dkv.storage.extras import module_of

if TYPE_CHECKING:
    from dkv.lab.study.base import Effort, Study
    from dkv.lab.study.context import Kit
    from dkv.lab.study.study_page import Finished
    from dkv.lab.study.study_session import StudySession

__all__ = ["study"]

_COUNT, _QUICK = 200, 20
"""Examples of each task under each setting; with --quick."""

_Names = Annotated[
    list[str] | None,
    typer.Argument(metavar="[NAME...]", help="Studies, or all. Default: list them.", show_default=False),
]
_Quick = Annotated[bool, options.switch("--quick", f"Fewer settings, {_QUICK} examples: all in minutes.")]
_Out = Annotated[Path, options.placed("--out", "Results, plots, index.html; what is there is kept.", metavar="DIR")]
_Count = Annotated[
    int | None, options.counted("--count", f"Examples of each task under each setting. Default: {_COUNT}.")
]
_Seed = Annotated[int, options.counted("--seed", "Seed of all random choices.")]


def study(
    names: _Names = None,
    quick: _Quick = False,
    out: _Out = Path("dkv-study"),
    model: options.Model = "tiny",
    count: _Count = None,
    seed: _Seed = 0,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    compile: options.Compile = False,  # noqa: A002 - named as its option
    as_json: options.Json = False,
) -> None:
    """Run the field's experiments and judge each claim by a rule.

    Without a NAME the studies are listed.
    """
    from dkv.lab.study.base import Effort
    from dkv.lab.study.study_list import STUDIES, named

    if not names:
        _list(named(list(STUDIES)), as_json)
        return
    studies = named(names)
    say_loading(model, as_json)
    module_of("plots", "matplotlib.figure")  # find out now, not after the measurements
    from dkv.lab.study.context import Kit

    number = (_QUICK if quick else _COUNT) if count is None else count
    effort = Effort(quick, number, seed, model)
    with Kit(model, device, dtype, compile, seed=seed, out=out) as kit:
        finished = _run(studies, effort, kit, out)
    if as_json:
        print_json({"page": str(out / "index.html"), "studies": [_json(f) for f in finished]})
    else:
        _print(finished, out)


def _list(studies: list[Study], as_json: bool) -> None:
    if as_json:
        print_json({"studies": [{"name": study.name, "claim": study.claim} for study in studies]})
        return
    for study in studies:
        print(f"{study.name}\n    {study.claim}")


def _run(studies: list[Study], effort: Effort, kit: Kit, out: Path) -> list[Finished]:
    """Run what is missing."""
    from dkv.lab.study.study_session import StudySession

    command = shlex.join(["dkv", *sys.argv[1:]])
    with (
        StudySession(studies, effort, kit, out, command) as session,
        keeping(lambda: f"{session.kept} cells and {kit.kept} answers are kept in {out}"),
    ):
        return _shown(session, studies, kit)


def _shown(session: StudySession, studies: list[Study], kit: Kit) -> list[Finished]:
    """With progress and the time left, on a terminal."""
    from dkv.cli.benchrun import BenchProgress

    left = [study.name for study in studies for _ in session.missing(study)]
    progress = BenchProgress([1] * len(left), what="cell")
    with region(stderr_console()) as show:

        def tell(note: str) -> None:
            if show is not None and progress.done < len(left):
                show(progress.drawn(printable(f"{left[progress.done]}: {note}"), 0.0))

        def measured(study: Study) -> None:
            progress.done += 1
            tell("measuring")

        kit.tell = tell
        return session.run(measured)


def _json(finished: Finished) -> dict[str, Any]:
    return {
        "name": finished.study.name,
        "claim": finished.study.claim,
        "held": finished.verdict.held,
        "verdict": finished.verdict.sentence,
        "cells": [{"cell": record.cell, "result": dict(record.result)} for record in finished.records],
    }


def _print(finished: list[Finished], out: Path) -> None:
    from dkv.lab.study.study_page import standing

    for one in finished:
        print(printable(f"{one.study.name}: {standing(one.verdict)}. {one.verdict.sentence}"))
    print(printable(f"plots, tables and settings: {out / 'index.html'}"))
