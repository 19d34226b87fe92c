"""One `dkv tune`: the race on some examples, and the bound on others that the race never saw.

The fastest of the race are tried on the held-out examples in turn until one passes; each try has its part of the 5% of
doubt, so that trying several does not make a bound of 95% less.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dkv.errors import SettingError
from dkv.lab.eval.answers import Asker, ask_missing, common_of, gather
from dkv.lab.eval.eval_table import ExampleOutcome
from dkv.lab.eval.questions import Setting
from dkv.lab.eval.suites import Suite
from dkv.lab.tune.budget import ALPHA, Budget, Loss
from dkv.lab.tune.race import CACHES, DECODERS, Trial, race, rungs, space
from dkv.lm import DiffusionLM
from dkv.storage.jsonl import Store, StoreFormat

__all__ = ["Attempt", "Outcomes", "TuneSession", "TuningPlan"]

ANSWERS = StoreFormat("dkv-tune 1", "dkv tune")
_OVERHEAD = 32
"""What a forward costs besides its rows, in rows: about that on a CPU. A GPU's is larger; it favours fewer forwards."""


@dataclass(frozen=True)
class TuningPlan:
    """How to tune. Raises SettingError."""

    budget: Budget
    count: int = 32  # examples of each suite for the race
    least: int = 8  # of them, in its first round
    held_out: int = 100  # of each suite for the bound, those after them
    finalists: int = 3  # settings that may be tried on these
    caches: tuple[str, ...] = CACHES
    decoders: tuple[str, ...] = DECODERS
    block_length: int | None = None  # by how many positions the canvas grows, None = it does not
    gen_length: int | None = None  # how far, None = as long as the task says

    def __post_init__(self) -> None:
        for name in ("count", "least", "held_out", "finalists", "block_length", "gen_length"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise SettingError(f"{name}={value} must be a whole number of at least 1")


@dataclass(frozen=True)
class Attempt:
    """A finalist on the held-out examples."""

    trial: Trial
    upper: float  # the most that it loses, at 95% with all tries counted
    passed: bool
    needed: int | None  # examples that would certify the budget at these rates, None where none would
    speedup: float  # the reference's cost over its own


@dataclass(frozen=True)
class Outcomes:
    """What a tuning found."""

    reference: Trial  # no cache, on the held-out examples
    trials: list[Trial]  # every setting on the most examples it had in the race
    attempts: list[Attempt]  # in the order of trying, the last one passed if any did

    @property
    def chosen(self) -> Attempt | None:
        """The fastest that passed."""
        return next((attempt for attempt in self.attempts if attempt.passed), None)


class TuneSession:
    """A tuning about to run, or interrupted and about to go on. `store`, a context manager, is its file.

    Raises SettingError where a suite has too few problems, and OSError.
    """

    def __init__(
        self, lm: DiffusionLM, suites: Sequence[Suite], plan: TuningPlan, seed: int, path: Path | None
    ) -> None:
        self._plan, self._lm = plan, lm
        for suite in suites:
            if len(suite.problems) < plan.count + plan.held_out:
                raise SettingError(
                    f"{suite.name}: {len(suite.problems)} examples are fewer than count={plan.count} and "
                    f"held_out={plan.held_out} together; use fewer"
                )
        self._race = [replace(s, problems=s.problems[: plan.count]) for s in suites]
        self._held = [replace(s, problems=s.problems[plan.count : plan.count + plan.held_out]) for s in suites]
        self.store = Store(path, common_of(lm, seed), ANSWERS)
        self._asker = Asker(lm, self.store, seed)
        self._settings = space(
            lm.model.config.default_decoder, plan.caches, plan.decoders, plan.block_length, plan.gen_length
        )
        self._trials = dict[Setting, Trial]()
        self._tell: Callable[[str], None] = lambda _: None

    def run(self, tell: Callable[[str], None]) -> Outcomes:
        """Do what is missing, and choose. tell: takes a line of progress now and then."""
        self._tell, plan = tell, self._plan
        rounds = rungs(plan.least, plan.count)
        finalists = race(self._settings, plan.budget, rounds, self._try_out, plan.finalists)
        self._tell("held-out examples: no cache")
        reference = self._measure([self._settings[0]], self._held)[0]
        return Outcomes(reference, list(self._trials.values()), self._attempts(finalists, reference))

    def _try_out(self, settings: Sequence[Setting], count: int) -> list[Trial]:
        """A round of the race; the reference answers in every one, to compare with."""
        suites = [replace(suite, problems=suite.problems[:count]) for suite in self._race]
        self._tell(f"{len(settings)} settings on {count} examples of each task")
        trials = self._measure(settings, suites)
        self._trials.update((trial.setting, trial) for trial in trials)
        return trials

    def _attempts(self, finalists: Sequence[Trial], reference: Trial) -> list[Attempt]:
        made: list[Attempt] = []
        for finalist in finalists:
            self._tell(f"held-out examples: {finalist.setting.cache}, {finalist.setting.decoder}")
            trial = self._measure([finalist.setting], self._held)[0]
            made.append(_attempt(trial, reference, self._plan.budget, ALPHA / len(finalists)))
            if made[-1].passed:
                break
        return made

    def _measure(self, settings: Sequence[Setting], suites: Sequence[Suite]) -> list[Trial]:
        """Ask what is missing of the settings and of the reference, and compare."""
        every = list(dict.fromkeys((self._settings[0], *settings)))
        for suite in suites:
            ask_missing(self._asker, suite, every, self._tell)
        found = {setting: list[ExampleOutcome]() for setting in every}
        for suite in suites:
            for measured in gather(self.store, suite, every):
                found[measured.setting] += [measured.outcomes[key] for key in sorted(measured.outcomes, key=int)]
        return [_trial(setting, found[setting], found[every[0]]) for setting in settings]


def _trial(setting: Setting, mine: Sequence[ExampleOutcome], reference: Sequence[ExampleOutcome]) -> Trial:
    pairs = [((a.output, a.value == 1), (b.output, b.value == 1)) for a, b in zip(mine, reference, strict=True)]
    tokens = max(1, sum(outcome.tokens for outcome in mine))
    cost = sum(outcome.rows + _OVERHEAD * outcome.forwards for outcome in mine) / tokens
    return Trial(setting, Loss.of(pairs), cost, sum(outcome.cpu for outcome in mine) / tokens)


def _attempt(trial: Trial, reference: Trial, budget: Budget, alpha: float) -> Attempt:
    """The reference itself loses nothing, whatever the count."""
    same = trial.setting == reference.setting
    upper = 0.0 if same else budget.upper(trial.loss, alpha)
    needed = None if same else budget.needed(trial.loss, alpha)
    return Attempt(trial, upper, upper <= budget.limit, needed, reference.cost / trial.cost)
