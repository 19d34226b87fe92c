"""How keys and values move: by what happened to the token, and by how long ago they were computed.

What dKV-Cache rests on: a token's keys and values change most at the step that decodes it, and hardly afterwards, so
they may be stored one step later; those of masked tokens change all along, so they are computed at every step.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from dkv.core.canvas import GIVEN
from dkv.lab.common.charts import Chart, Heatmap, Panel, Series
from dkv.lab.study.base import Cell, Effort, Record, Verdict
from dkv.lab.study.context import Kit
from dkv.lab.study.domains import domains_of, listed, moved, probed, task_cells, values_of
from dkv.lab.study.layer_probes import Snapshot
from dkv.lab.study.verdicts import Interval, all_of, at_least, at_most, bootstrap

__all__ = ["AGES", "STATES", "Dynamics", "drifts", "states_of"]

STATES = ("masked", "just decoded", "1 step ago", "2", "3", "4-7", "8+", "prompt")
"""What a token is from one step to the next. masked: in both; just decoded: masked in the first, itself in the second;
1 step ago and so on: that long decoded at the first."""

AGES = (1, 2, 4, 8, 16)
"""Steps between the two times at which keys and values are compared."""

_KEPT = ("k", "v")
_GROUPS = ("decoded", "prompt")
_SETTLED = 0.25
"""A token has settled where its drift one step after is at most this share of the drift when it was decoded."""


@dataclass(frozen=True)
class Dynamics:
    """1 - cosine of keys, and of values, between steps: by token state and layer, and by age.

    Held: in every domain, for keys and for values, averaged over layers, (1) a token decoded one step ago drifts at
    most a quarter as far as at the step that decodes it, (2) no state drifts further than that one, and (3) masked
    tokens drift further than those decoded 2 or more steps ago. Each is a ratio with a bootstrap interval over prompts;
    open while one straddles its bound and none fails.
    """

    name: ClassVar[str] = "dynamics"
    claim: ClassVar[str] = (
        "A token's keys and values change most at the step that decodes it and settle after it, while those of masked "
        "tokens go on changing (dKV-Cache, arXiv 2505.15781, on the dynamics of representations)."
    )

    def cells(self, effort: Effort) -> Sequence[Cell]:
        """A few examples of each task."""
        return task_cells(effort)

    def measure(self, kit: Kit, cells: Sequence[Cell]) -> Iterator[Record]:
        """A generation without a cache for each cell, in float32. Raises what loading raises, and PromptError."""
        return probed(kit, cells, self.name, drifts)

    def chart(self, records: Sequence[Record]) -> Chart:
        """For each domain: drift of K and of V by layer and state, and by age."""
        domains = domains_of(records)
        found = {(d, x): values_of(records, d, "state", x).nanmean(0).T.tolist() for d in domains for x in _KEPT}
        there = [v for values in found.values() for line in values for v in line if v > 0] or [1.0]
        panels = []
        for domain in domains:
            for x in _KEPT:
                bar = "1 - cosine" if x == _KEPT[-1] else ""
                heat = Heatmap(found[domain, x], STATES, min(there) * 0.99, max(there) * 1.01, bar)
                title = f"{domain}: drift of {x.upper()}, step to step"
                panels.append(Panel("token (decoded how many steps ago)", "layer", title, heat=heat))
            panels.append(_by_age(records, domain))
        return Chart("Keys and values between steps, without a cache", panels, 3, size=(4.6, 3.6))

    def verdict(self, records: Sequence[Record]) -> Verdict:
        """By the rule above."""
        domains = domains_of(records)
        found = {(d, x): _ratios(records, d, x) for d in domains for x in _KEPT}
        parts = [
            f"{d} (n={len(values_of(records, d, 'state', 'k'))} prompts): {_told(found[d, 'k'], found[d, 'v'])}"
            for d in domains
        ]
        settled = all_of(held for ratios in found.values() for held in ratios.held)
        return Verdict(settled, f"Averaged over layers, with 95% intervals over prompts. {'. '.join(parts)}.")


@dataclass(frozen=True)
class _Ratios:
    """What the rule looks at: drift one step after decoding, and the largest of all other states', over that of the
    decoding step; and drift of masked tokens over that of settled ones."""

    after: Interval
    largest: Interval
    masked: Interval

    @property
    def held(self) -> tuple[bool | None, ...]:
        return at_most(self.after, _SETTLED), at_most(self.largest, 1.0), at_least(self.masked, 1.0)


def states_of(committed_at: Tensor, clock: int) -> Tensor:
    """[T] which of `STATES` each position is in from step `clock` to the next, from `committed_at` [T]."""
    ago = clock - committed_at
    bounds = torch.tensor([0, 1, 2, 3, 4, 8], device=ago.device)
    state = torch.bucketize(ago, bounds, right=True)
    return torch.where(committed_at == GIVEN, STATES.index("prompt"), state)


def drifts(steps: Iterator[Snapshot]) -> list[dict[str, Any]]:
    """For each sequence: mean drift of K and V by state and layer, by group and age, and the counts."""
    tallies: dict[int, _Tally] = {}
    past: deque[Snapshot] = deque(maxlen=max(AGES))
    for now in steps:
        for row, active in enumerate(now.active):
            if active and past:
                tallies.setdefault(row, _Tally()).add(list(past), now, row)
        past.append(now)
    return [tallies[row].result() for row in sorted(tallies)]


class _Tally:
    """Sums of one sequence: [K and V, states or groups x ages, L] and counts."""

    def __init__(self) -> None:
        self.state, self.states = torch.zeros(0), torch.zeros(len(STATES))
        self.age, self.ages = torch.zeros(0), torch.zeros(len(_GROUPS), len(AGES))

    def add(self, past: list[Snapshot], now: Snapshot, row: int) -> None:
        """The transitions that end at `now`."""
        whole = slice(0, now.length[row])
        committed = now.committed_at[row, whole]
        for number, age in enumerate(AGES):
            if age > len(past):
                break
            then = past[-age]
            drift = torch.stack([
                moved(getattr(now, x)[:, row, whole], getattr(then, x)[:, row, whole]).double() for x in _KEPT
            ])  # fmt: skip
            self._add_age(drift, committed, then.clock, number)
            if age == 1:
                self._add_states(drift, states_of(committed, then.clock))

    def _add_states(self, drift: Tensor, state: Tensor) -> None:
        member = torch.nn.functional.one_hot(state, len(STATES)).double()
        self.state = self._sum(self.state, torch.einsum("xlt,ts->xsl", drift, member))
        self.states = self.states + member.sum(0).cpu()

    def _add_age(self, drift: Tensor, committed: Tensor, clock: int, number: int) -> None:
        """Of decoded tokens, only those that were themselves at both times."""
        given = committed == GIVEN
        member = torch.stack(((committed < clock) & ~given, given), 1).double()
        found = torch.zeros(len(_KEPT), len(_GROUPS), len(AGES), drift.shape[1], dtype=torch.float64)
        found[:, :, number] = torch.einsum("xlt,tg->xgl", drift, member).cpu()
        self.age = self._sum(self.age, found)
        self.ages[:, number] += member.sum(0).cpu()

    @staticmethod
    def _sum(total: Tensor, more: Tensor) -> Tensor:
        return more.cpu() if not total.numel() else total + more.cpu()

    def result(self) -> dict[str, Any]:
        """As JSON: means by kind, then state or group and age, then layer; None where there was nothing."""
        state = self.state / self.states[None, :, None]
        age = self.age / self.ages[None, :, :, None]
        return {
            "state": {x: listed(state[i], ".6g") for i, x in enumerate(_KEPT)},
            "age": {x: listed(age[i].flatten(0, 1), ".6g") for i, x in enumerate(_KEPT)},
            "states": [int(n) for n in self.states],
            "ages": [int(n) for n in self.ages.flatten()],
        }


def _ratios(records: Sequence[Record], domain: str, x: str) -> _Ratios:
    values = values_of(records, domain, "state", x).mean(2)  # [prompts, states]
    decoding, old = STATES.index("just decoded"), slice(STATES.index("2"), STATES.index("prompt"))
    others = [i for i in range(len(STATES)) if i != decoding]

    def of(sample: Tensor) -> Tensor:
        return sample.nanmean(1)

    return _Ratios(
        after=bootstrap(values, lambda s: of(s)[:, decoding + 1] / of(s)[:, decoding]),
        largest=bootstrap(values, lambda s: of(s)[:, others].nan_to_num(0).amax(1) / of(s)[:, decoding]),
        masked=bootstrap(values, lambda s: of(s)[:, 0] / of(s)[:, old].nanmean(1)),
    )


def _told(keys: _Ratios, values: _Ratios) -> str:
    def both(name: str) -> str:
        pairs = (("K", getattr(keys, name)), ("V", getattr(values, name)))
        return " and ".join(f"{value:.2g} [{low:.2g}, {high:.2g}] ({x})" for x, (value, low, high) in pairs)

    return (
        f"a step after its decoding a token drifts {both('after')} times as far as at it; the largest of the other "
        f"states is at {both('largest')} times; masked tokens drift {both('masked')} times as far as those decoded 2 "
        "or more steps ago"
    )


def _by_age(records: Sequence[Record], domain: str) -> Panel:
    """Drift over age, averaged over layers, of K and V of decoded tokens and of the prompt."""
    series = []
    for x, line in (("k", "-"), ("v", "--")):
        means = values_of(records, domain, "age", x).nanmean(0).nanmean(1).view(len(_GROUPS), len(AGES)).tolist()
        series += [
            Series(f"{x.upper()}, {group}", mean, AGES, like=group, style=line, hollow=x == "v")
            for group, mean in zip(_GROUPS, means, strict=True)
        ]
    label = "1 - cosine, mean over layers"
    title = f"{domain}: drift by age"
    return Panel("age (steps since computed)", label, title, series=series, log_x=AGES, low=0, legend=True)
