"""`dkv compare`: one prompt under several caches, side by side."""

from __future__ import annotations

import secrets
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dkv.cli import options
from dkv.cli.console import print_json, print_table, printable, say_loading, stdout_console
from dkv.cli.live import telling
from dkv.cli.prompt import read_prompt, read_stops
from dkv.errors import SettingError
from dkv.params import OPTIONS

if TYPE_CHECKING:
    from dkv.lm import DiffusionLM
    from dkv.outputs import Generation

__all__ = ["compare"]

_DEFAULT = ("none", "dkv-decode")
_HEADINGS = ("cache", "tokens/s", "forwards", "rows computed", "agreement", "text")
_WARM_UP_LENGTH = 8
_NARROW = 80
"""Columns of a terminal below which a table of all caches would lose its figures."""


@dataclass(frozen=True)
class TimedCache:
    """One cache's result. spec: as given; generation: its first run's; seconds: the median of its runs; agreement: with
    the first cache's tokens."""

    spec: str
    generation: Generation
    seconds: float
    agreement: float

    @property
    def speed(self) -> float:
        """Tokens a second."""
        return self.generation.stats.new_tokens / self.seconds if self.seconds else 0.0


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

    specs = list(cache or _DEFAULT)
    for spec in specs:
        dkv.caches.make_cache(spec)  # a misspelled last one should not cost the runs before it
    lm = dkv.load(model, device=device, dtype=dtype, quantize=quantize, compile=compile)
    measured = _measure(lm, given, specs, repeats, arguments)
    if as_json:
        _print_json(lm, repeats, measured)
    else:
        _print_table(measured)


def _measure(
    lm: DiffusionLM, prompt: str | list[int], specs: Sequence[str], repeats: int, arguments: dict[str, Any]
) -> list[TimedCache]:
    """Each cache `repeats` times, in turn, after a short untimed run of each. Raises what `lm.generate` raises."""
    turns = [spec for _ in range(repeats) for spec in specs]
    runs: list[Generation] = []
    with telling() as tell:
        _warm_up(lm, prompt, specs, arguments)
        for turn, spec in enumerate(turns):
            tell(f"run {turn + 1} of {len(turns)}: {spec}")
            runs += lm.generate([prompt], cache=spec, **arguments)
    from dkv.lab.common.agreement import agreement

    own = [runs[first :: len(specs)] for first in range(len(specs))]
    return [
        TimedCache(spec, mine[0], statistics.median(g.stats.seconds for g in mine), agreement(runs[0], mine[0]))
        for spec, mine in zip(specs, own, strict=True)
    ]


def _warm_up(lm: DiffusionLM, prompt: str | list[int], specs: Sequence[str], arguments: dict[str, Any]) -> None:
    """The first forwards of a process pay for allocations and kernel choices that no later run does."""
    length = arguments["gen_length"]
    if length < 1:
        return  # the first run says what is wrong with it
    for spec in specs:
        lm.generate(
            [prompt],
            gen_length=min(length, _WARM_UP_LENGTH),
            cache=spec,
            decoder=arguments["decoder"],
            cache_dtype=arguments["cache_dtype"],
            chat=arguments["chat"],
            seed=0,
        )


def _print_json(lm: DiffusionLM, repeats: int, measured: list[TimedCache]) -> None:
    from dkv.cli.record import record_of

    def one(m: TimedCache) -> dict[str, Any]:
        timing = {"seconds": m.seconds, "tokens_per_second": m.speed, "agreement": m.agreement}
        return {"cache": m.spec, **timing, **record_of(m.generation)}

    how = {"model": lm.name, "quantize": lm.quantize, "compile": lm.compiled, "repeats": repeats}
    print_json({**how, "results": [one(m) for m in measured]})


def _print_table(measured: list[TimedCache]) -> None:
    console = stdout_console()
    if console.width >= _NARROW:
        print_table(_HEADINGS, map(_cells, measured), ("cache", "text"), lines=True, wide="text")
        return
    from rich.table import Table
    from rich.text import Text

    for m in measured:  # a small table for each cache
        table = Table(show_header=False, expand=True)
        table.add_column()
        table.add_column(overflow="fold", ratio=1)
        for heading, cell in zip(_HEADINGS, _cells(m), strict=True):
            table.add_row(heading, Text(printable(cell)))
        console.print(table)


def _cells(m: TimedCache) -> tuple[str, ...]:
    from dkv.cli.record import share_of, shown_text

    stats = m.generation.stats
    rows = f"{stats.rows_computed:.0f} ({share_of(stats):.1%})"
    return m.spec, f"{m.speed:.1f}", str(stats.forwards), rows, f"{m.agreement:.1%}", shown_text(m.generation)
