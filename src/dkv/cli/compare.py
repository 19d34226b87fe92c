"""`dkv compare`: one prompt under several caches, side by side."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any

from dkv.cli import options
from dkv.cli.console import printable, say_loading, stdout_console
from dkv.cli.prompt import read_prompt, read_stops
from dkv.errors import SettingError
from dkv.params import OPTIONS

if TYPE_CHECKING:
    from dkv.cli.compare_timing import TimedCache
    from dkv.lm import DiffusionLM

__all__ = ["compare"]

_DEFAULT = ("none", "dkv-decode")
_NARROW = 80
"""Columns of a terminal below which a table of all caches would lose its figures."""


@options.with_sampling_options([name for name in OPTIONS if name != "cache"])
def compare(
    prompt: options.Prompt,
    cache: options.Caches = None,
    repeats: options.Repeats = 1,
    model: options.Model = "tiny",
    sampling: Any = None,
    chat: options.Chat = None,
    ids: options.Ids = False,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    quantize: options.Quantize = None,
    compile: options.Compile = False,  # noqa: A002 - named as its option
    as_json: options.Json = False,
) -> None:
    """Compare caches on one PROMPT: speed, work and agreement.

    All use the same seed. Agreement is the share of tokens that are the first cache's.
    """
    seed = secrets.randbits(32) if sampling["seed"] is None else sampling["seed"]
    arguments = {**sampling, "seed": seed, "stop": read_stops(sampling["stop"]), "chat": chat}
    if repeats < 1:
        raise SettingError(f"repeats={repeats} must be a whole number of at least 1")
    given = read_prompt(prompt, ids)
    say_loading(model, as_json)
    import dkv
    from dkv.cli.compare_timing import measure

    specs = list(cache or _DEFAULT)
    for spec in specs:
        dkv.caches.make_cache(spec)  # a misspelled last one should not cost the runs before it
    lm = dkv.load(model, device=device, dtype=dtype, quantize=quantize, compile=compile)
    measured = measure(lm, given, specs, repeats, arguments)
    if as_json:
        _print_json(lm, repeats, measured)
    else:
        _print_table(measured)


def _print_json(lm: DiffusionLM, repeats: int, measured: list[TimedCache]) -> None:
    from dkv.cli.record import print_json, record_of

    def one(m: TimedCache) -> dict[str, Any]:
        timing = {"seconds": m.seconds, "tokens_per_second": m.speed, "agreement": m.agreement}
        return {"cache": m.spec, **timing, **record_of(m.generation)}

    how = {"model": lm.name, "quantize": lm.quantize, "compile": lm.compiled, "repeats": repeats}
    print_json({**how, "results": [one(m) for m in measured]})


def _print_table(measured: list[TimedCache]) -> None:
    from rich.table import Table
    from rich.text import Text

    console = stdout_console()
    if console.width < _NARROW:  # a small table for each cache
        for m in measured:
            table = Table(show_header=False, expand=True)
            table.add_column()
            table.add_column(overflow="fold", ratio=1)
            for heading, cell in zip(_HEADINGS, _cells(m), strict=True):
                table.add_row(heading, Text(cell))
            console.print(table)
        return
    table = Table(show_lines=True)
    for heading in _HEADINGS:
        figure = heading not in ("cache", "text")
        table.add_column(
            heading, overflow="fold", justify="right" if figure else "left", ratio=heading == "text" or None
        )
    for m in measured:
        table.add_row(*map(Text, _cells(m)))
    console.print(table)


_HEADINGS = ("cache", "tokens/s", "forwards", "rows computed", "agreement", "text")


def _cells(m: TimedCache) -> tuple[str, ...]:
    from dkv.cli.record import share_of, shown_text

    stats = m.generation.stats
    rows = f"{stats.rows_computed:.0f} ({share_of(stats):.1%})"
    text = printable(shown_text(m.generation))
    return printable(m.spec), f"{m.speed:.1f}", str(stats.forwards), rows, f"{m.agreement:.1%}", text
