"""A tuning as a whole, on models that need no time: what is chosen, that it is kept, and that a rerun repeats it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import dkv
from dkv.checkpoints.tuned_settings import find_tuned, tuned_path
from dkv.errors import SettingError
from dkv.lab.eval.questions import Question, Setting
from dkv.lab.eval.suites import Problem, Suite
from dkv.lab.tune.budget import Budget
from dkv.lab.tune.chosen import draw, front, keep
from dkv.lab.tune.tune_session import Outcomes, TuneSession, TuningPlan

PLAN = TuningPlan(
    Budget("changed", 0.5), count=4, least=2, held_out=6, finalists=3,
    caches=("none", "dkv-decode:refresh=1", "dkv-decode:refresh=4"), decoders=("threshold:tau=0.9",),
)  # fmt: skip


def suite(count: int) -> Suite:
    return Suite("numbers", tuple(Problem(Question(f"say {n}", 6), bool, str(n)) for n in range(count)))


def tuned(lm: dkv.DiffusionLM, path: Path | None = None, plan: TuningPlan = PLAN) -> Outcomes:
    session = TuneSession(lm, [suite(10)], plan, 0, path)
    with session.store:
        return session.run(lambda _: None)


def test_what_passes_is_cheaper_and_within_the_budget(lm: dkv.DiffusionLM) -> None:
    outcomes = tuned(lm)
    assert outcomes.reference.setting == Setting("confidence", "none")
    assert outcomes.reference.loss.count == 6
    assert outcomes.reference.loss.changed == 0
    chosen = outcomes.chosen
    assert chosen is not None
    assert chosen.upper <= 0.5
    assert all(not attempt.passed for attempt in outcomes.attempts[:-1])
    assert len(outcomes.trials) == 6


def test_a_rerun_chooses_alike_and_asks_nothing(
    lm: dkv.DiffusionLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "answers.jsonl"
    first = tuned(lm, path)
    monkeypatch.setattr(lm, "generate", None)
    again = tuned(lm, path)
    assert [a.trial.setting for a in again.attempts] == [a.trial.setting for a in first.attempts]
    assert again.trials == first.trials


def test_the_reference_itself_always_passes(lm: dkv.DiffusionLM) -> None:
    """However few the examples are: it loses nothing by definition."""
    plan = replace(PLAN, budget=Budget("changed", 0.001), caches=("none",), decoders=())
    chosen = tuned(lm, plan=plan).chosen
    assert chosen is not None
    assert (chosen.upper, chosen.speedup) == (0.0, 1.0)


def test_too_few_examples_fail_and_say_how_many_would_tell(lm: dkv.DiffusionLM) -> None:
    plan = replace(PLAN, budget=Budget("changed", 0.01), caches=("none", "dkv-decode:refresh=1"), decoders=())
    first = tuned(lm, plan=plan).attempts[0]
    if first.trial.setting.cache != "none":
        assert not first.passed
        assert first.needed is None or first.needed > 6


def test_too_small_a_suite_is_refused(lm: dkv.DiffusionLM) -> None:
    with pytest.raises(SettingError, match=r"numbers: 9 examples are fewer than count=4 and held_out=6 together"):
        TuneSession(lm, [suite(9)], PLAN, 0, None)


@pytest.mark.parametrize("name", ["count", "least", "held_out", "finalists"])
def test_counts_are_at_least_one(name: str) -> None:
    with pytest.raises(SettingError, match=f"{name}=0 must be a whole number of at least 1"):
        replace(PLAN, **{name: 0})  # type: ignore[arg-type]


def test_auto_is_what_was_kept(spoken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DKV_HOME", str(tmp_path))
    lm = dkv.load(spoken, device="cpu", dtype="float32")
    with pytest.raises(SettingError, match=r"cache='auto': nothing was tuned for this model yet; run dkv tune --model"):
        lm.generate("hi", gen_length=4, cache="auto")
    outcomes = tuned(lm)
    assert outcomes.chosen is not None
    path = keep(lm, outcomes.chosen, PLAN.budget)
    assert path == tuned_path(spoken)
    kept = find_tuned(spoken, lm.name)
    setting = outcomes.chosen.trial.setting
    assert (kept.cache, kept.decoder) == (setting.cache, setting.decoder)
    mine = lm.generate("hi", gen_length=6, cache="auto", seed=0)[0]
    its = lm.generate("hi", gen_length=6, cache=setting.cache, decoder=setting.decoder, seed=0)[0]
    assert (mine.token_ids, mine.stats.rows_computed) == (its.token_ids, its.stats.rows_computed)
    assert path is not None
    path.write_text("{}", encoding="utf-8")
    with pytest.raises(SettingError, match="holds no settings; delete it, and tune again"):
        lm.generate("hi", gen_length=4, cache="auto")


def test_the_figure_and_its_front(lm: dkv.DiffusionLM, tmp_path: Path) -> None:
    outcomes = tuned(lm)
    assert draw(outcomes, PLAN.budget, tmp_path / "tune.png")
    assert (tmp_path / "tune.png").read_bytes().startswith(b"\x89PNG")
    best = front(outcomes.trials, PLAN.budget)
    costs, losses = [t.cost for t in best], [PLAN.budget.estimate(t.loss) for t in best]
    assert costs == sorted(costs)
    assert losses == sorted(losses, reverse=True)
