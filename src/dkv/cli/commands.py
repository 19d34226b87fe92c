"""The typer application: which commands there are, `--version`, and one boundary for every error."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from dkv.cli import (
    bench,
    caches,
    compare,
    convert,
    doctor,
    eval,  # noqa: A004 - named as its command
    generate,
    inspect,
    report,
    serve,
    study,
    tune,
)
from dkv.cli.guard import guarded
from dkv.cli.help import Command
from dkv.version import VERSION

__all__ = ["app", "run"]


class _Guarded(TyperGroup):
    """A group whose every error ends as one line and an exit code, however it is called (console script or test)."""

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run, and exit with the code that `guarded` gives."""
        extra["standalone_mode"] = False
        extra["complete_var"] = ""  # no variable has this name: completion is off, also for who sets _DKV_COMPLETE
        sys.exit(guarded(lambda: super(_Guarded, self).main(*args, **extra)))


# Plain help: typer's rich help colours its output on some machines even when it goes to a file.
app = typer.Typer(cls=_Guarded, name="dkv", add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
app.command(cls=Command)(generate.generate)
app.command(cls=Command)(compare.compare)
app.command(cls=Command)(caches.caches)
app.command(cls=Command)(inspect.inspect)
app.command(cls=Command)(convert.convert)
app.command(cls=Command)(bench.bench)
app.command(cls=Command)(report.report)
app.command("eval", cls=Command)(eval.evaluate)
app.command(cls=Command)(study.study)
app.command(cls=Command)(doctor.doctor)
app.command(cls=Command)(serve.serve)
app.command(cls=Command)(tune.tune)


def run() -> int:
    """Run the application on sys.argv; the exit code."""
    try:
        app(prog_name="dkv")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0
    return 0


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"dkv {VERSION}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Generate text with diffusion language models, with every cache behind one interface."""
    if context.invoked_subcommand is None:
        print(context.get_help())
