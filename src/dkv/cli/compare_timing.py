"""Timing several caches on one prompt, so that none gains from its place in the line."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dkv.cli.console import printable, stderr_console
from dkv.cli.live import region
from dkv.lab.common.agreement import agreement

if TYPE_CHECKING:
    from dkv.lm import DiffusionLM
    from dkv.outputs import Generation

__all__ = ["TimedCache", "measure"]

_WARM_UP_LENGTH = 8


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


def measure(
    lm: DiffusionLM, prompt: str | list[int], specs: Sequence[str], repeats: int, arguments: dict[str, Any]
) -> list[TimedCache]:
    """Each cache `repeats` times, in turn, after a short untimed run of each. Raises what `lm.generate` raises."""
    turns = [spec for _ in range(repeats) for spec in specs]
    runs: list[Generation] = []
    with region(stderr_console()) as show:
        _warm_up(lm, prompt, specs, arguments)
        for turn, spec in enumerate(turns):
            if show is not None:
                show(printable(f"run {turn + 1} of {len(turns)}: {spec}"))
            runs += lm.generate([prompt], cache=spec, **arguments)
    return [_summed_up(spec, runs[at :: len(specs)], runs[0]) for at, spec in enumerate(specs)]


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


def _summed_up(spec: str, runs: Sequence[Generation], first: Generation) -> TimedCache:
    return TimedCache(spec, runs[0], statistics.median(g.stats.seconds for g in runs), agreement(first, runs[0]))
