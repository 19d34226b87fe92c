"""How keys and values move: by what happened to the token, and by how long ago they were computed.

What dKV-Cache rests on: a token's keys and values change most at the step that decodes it, and hardly afterwards, so
they may be stored one step later; those of masked tokens change all along, so they are computed at every step.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from dkv.core.canvas import GIVEN
from dkv.core.drift import drift
from dkv.lab.study.base import Cell, Effort, Record, Verdict
from dkv.lab.study.context import Kit
from dkv.lab.study.domains import DOMAINS, domains_of, exact, snapshots, task_cells
from dkv.lab.study.layer_probes import Snapshot
from dkv.lab.study.resampling import Interval, bootstrap

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

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
        lm = exact(kit)
        for cell in cells:
            kit.tell(f"dynamics: {cell['task']}, prompts from {cell['first']}")
            yield Record(cell, {"prompts": drifts(snapshots(lm, cell))})

    def figure(self, records: Sequence[Record]) -> Figure:
        """For each domain: drift of K and of V by layer and state, and by age."""
        from dkv.lab.study.panels import grid, heatmap

        domains = domains_of([record.cell for record in records])
        figure, panels = grid(len(domains), 3, "Keys and values between steps, without a cache")
        moved = {(d, x): _mean(records, d, "state", x).T.tolist() for d in domains for x in _KEPT}
        there = [v for values in moved.values() for line in values for v in line if v > 0] or [1.0]
        for domain, (keys, values, ages) in zip(domains, panels, strict=True):
            for axis, x in ((keys, "k"), (values, "v")):
                image = heatmap(axis, moved[domain, x], STATES, min(there) * 0.99, max(there) * 1.01)
                axis.set_title(f"{domain}: drift of {x.upper()}, step to step", fontsize=9)
                axis.set_xlabel("token (decoded how many steps ago)", fontsize=8)
            figure.colorbar(image, ax=values, label="1 - cosine")
            _draw_ages(ages, records, domain)
            ages.set_title(f"{domain}: drift by age", fontsize=9)
        return figure

    def verdict(self, records: Sequence[Record]) -> Verdict:
        """By the rule above."""
        domains = domains_of([record.cell for record in records])
        found = {(d, x): _ratios(records, d, x) for d in domains for x in _KEPT}
        held = [h for ratios in found.values() for h in ratios.held]
        settled = False if False in held else None if None in held else True
        parts = [
            f"{d} (n={len(_values(records, d, 'state', 'k'))} prompts): {_told(found[d, 'k'], found[d, 'v'])}"
            for d in domains
        ]
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
        return _most(self.after, _SETTLED), _most(self.largest, 1.0), _least(self.masked, 1.0)


def _most(interval: Interval, bound: float) -> bool | None:
    _, low, high = interval
    return True if high <= bound else False if low > bound else None


def _least(interval: Interval, bound: float) -> bool | None:
    _, low, high = interval
    return True if low >= bound else False if high < bound else None


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
            moved = torch.stack([
                _moved(getattr(now, x)[:, row, whole], getattr(then, x)[:, row, whole]) for x in _KEPT
            ])  # fmt: skip
            self._add_age(moved, committed, then.clock, number)
            if age == 1:
                self._add_states(moved, states_of(committed, then.clock))

    def _add_states(self, moved: Tensor, state: Tensor) -> None:
        member = torch.nn.functional.one_hot(state, len(STATES)).double()
        self.state = self._sum(self.state, torch.einsum("xlt,ts->xsl", moved, member))
        self.states = self.states + member.sum(0).cpu()

    def _add_age(self, moved: Tensor, committed: Tensor, clock: int, number: int) -> None:
        """Of decoded tokens, only those that were themselves at both times."""
        given = committed == GIVEN
        member = torch.stack(((committed < clock) & ~given, given), 1).double()
        found = torch.zeros(len(_KEPT), len(_GROUPS), len(AGES), moved.shape[1], dtype=torch.float64)
        found[:, :, number] = torch.einsum("xlt,tg->xgl", moved, member).cpu()
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
            "state": {x: _listed(state[i]) for i, x in enumerate(_KEPT)},
            "age": {x: _listed(age[i].flatten(0, 1)) for i, x in enumerate(_KEPT)},
            "states": [int(n) for n in self.states],
            "ages": [int(n) for n in self.ages.flatten()],
        }


def _moved(new: Tensor, old: Tensor) -> Tensor:
    """1 - cosine [L, T] of vectors [L, T, D]."""
    return drift(new.flatten(0, 1), old.flatten(0, 1), "cosine").view(new.shape[:2]).double()


def _listed(values: Tensor) -> list[list[float | None]]:
    return [[float(f"{v:.6g}") if v == v else None for v in line] for line in values.tolist()]


def _values(records: Sequence[Record], domain: str, kind: str, x: str) -> Tensor:
    """[prompts, states or groups * ages, L] of a domain; NaN where there was nothing."""
    found = [
        [[torch.nan if v is None else v for v in line] for line in prompt[kind][x]]
        for record in records
        if DOMAINS[record.cell["task"]] == domain
        for prompt in record.result["prompts"]
    ]
    return torch.tensor(found, dtype=torch.float64)


def _mean(records: Sequence[Record], domain: str, kind: str, x: str) -> Tensor:
    return _values(records, domain, kind, x).nanmean(0)


def _ratios(records: Sequence[Record], domain: str, x: str) -> _Ratios:
    values = _values(records, domain, "state", x).mean(2)  # [prompts, states]
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
        return " and ".join(
            f"{getattr(r, name)[0]:.2g} [{getattr(r, name)[1]:.2g}, {getattr(r, name)[2]:.2g}] ({x})"
            for x, r in (("K", keys), ("V", values))
        )

    return (
        f"a step after its decoding a token drifts {both('after')} times as far as at it; the largest of the other "
        f"states is at {both('largest')} times; masked tokens drift {both('masked')} times as far as those decoded 2 "
        "or more steps ago"
    )


def _draw_ages(axis: Axes, records: Sequence[Record], domain: str) -> None:
    """Drift over age, averaged over layers, of K and V of decoded tokens and of the prompt."""
    from dkv.lab.study.panels import COLOURS, MARKS

    for number, group in enumerate(_GROUPS):
        for x, line in (("k", "-"), ("v", "--")):
            mean = _mean(records, domain, "age", x).nanmean(1).view(len(_GROUPS), len(AGES))[number].tolist()
            axis.plot(
                AGES, mean, line, color=COLOURS[number], marker=MARKS[number], label=f"{x.upper()}, {group}",
                fillstyle="full" if x == "k" else "none", markersize=5, linewidth=1.4,
            )  # fmt: skip
    axis.set_xscale("log", base=2)
    axis.set_xticks(AGES, [str(age) for age in AGES])
    axis.set_ylim(bottom=0)
    axis.set_xlabel("age (steps since computed)", fontsize=8)
    axis.set_ylabel("1 - cosine, mean over layers", fontsize=8)
    axis.grid(True, color="#dddddd", linewidth=0.6)
    axis.legend(fontsize=7, frameon=False)
