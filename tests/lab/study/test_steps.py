"""A whole generation's cost from a few of its steps: the rule on made-up times, and against a generation in full."""

from __future__ import annotations

import time
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dkv.core.packing import exact
from dkv.lab.bench.flops import flops, work_of
from dkv.lab.bench.replay import replay
from dkv.lab.common.engine_batch import EngineBatch, requests_of
from dkv.lab.study.context import Kit
from dkv.lab.study.runs import settings_for
from dkv.lab.study.steps import Sample, StepKind, compose, outline, points_of, seconds_of, side_by_side
from dkv.models import Transformer
from tests.support.runs import start_and_play

WHOLE, SOME = StepKind(True), StepKind(False)
COSTS = st.lists(st.integers(1, 10**12), min_size=2, max_size=3, unique=True)


@given(COSTS, st.floats(0, 1), st.floats(1e-12, 1e-9), st.lists(st.integers(1, 10**12), min_size=1, max_size=9))
def test_times_on_a_line_are_composed_exactly(costs: list[int], fixed: float, slope: float, steps: list[int]) -> None:
    points = {SOME: [(cost, fixed + slope * cost) for cost in sorted(costs)]}
    counts = Counter((SOME, cost) for cost in steps)
    assert compose(counts, points) == pytest.approx(sum(fixed + slope * cost for cost in steps), rel=1e-4, abs=1e-3)


def test_the_nearest_two_steps_decide() -> None:
    points = [(10, 1.0), (20, 2.0), (40, 10.0)]
    assert [seconds_of(points, cost) for cost in (10, 15, 20, 30, 40, 50)] == [1.0, 1.5, 2.0, 6.0, 10.0, 14.0]
    assert seconds_of(points, 5) == 0.5
    assert seconds_of([(10, 1.0), (20, 5.0)], 1) == 0.0  # never less than nothing


def test_a_single_step_stands_for_its_kind_in_proportion() -> None:
    assert compose({(WHOLE, 10): 3, (WHOLE, 20): 1}, {WHOLE: [(10, 2.0)]}) == 10.0


def test_a_kind_that_was_not_taken_is_an_error() -> None:
    with pytest.raises(KeyError):
        compose({(SOME, 10): 1}, {WHOLE: [(10, 2.0)]})


def test_a_step_counts_at_the_lower_median_of_its_rounds(model: Transformer) -> None:
    (sample,) = outline(model.config, settings_for("none", 2, 2), 3).samples
    samples = [Sample(WHOLE, 20, sample.state), Sample(WHOLE, 10, sample.state)]
    assert points_of(samples, [[5.0, 1.0], [3.0, 4.0], [9.0, 2.0]]) == {WHOLE: [(10, 2.0), (20, 5.0)]}
    assert points_of(samples, [[5.0, 1.0], [3.0, 4.0]]) == {WHOLE: [(10, 1.0), (20, 3.0)]}


@pytest.mark.parametrize("cache", ["none", "dkv-decode", "dkv-pd", "dllm-cache:kp=4,kr=3", "fast-dual"])
def test_it_counts_what_a_replay_counts(model: Transformer, cache: str) -> None:
    settings = settings_for(cache, 8, 4)
    works = list(replay(model.config, settings, 5))
    found = outline(model.config, settings, 5)
    assert sum(found.works.values()) == len(works) == 8
    assert found.flops_of(model.config) == sum(flops(model.config, work) for work in works)
    assert sum(cost * n for (_, cost), n in found.counts.items()) == found.flops_of(model.config)
    assert found.rows == sum(part.layers * part.rows for work in works for part in work.parts) / model.config.layers


def test_refreshes_are_a_kind_of_their_own(model: Transformer) -> None:
    found = outline(model.config, settings_for("dkv-decode:refresh=4,warmup=1", 8, 8), 5)
    kinds: Counter[StepKind] = Counter()
    for (kind, _), count in found.counts.items():
        kinds[kind] += count
    assert kinds == {WHOLE: 2, SOME: 6}


def test_a_layer_that_picks_makes_kinds_by_what_it_picks(model: Transformer) -> None:
    found = outline(model.config, settings_for("dllm-cache:kp=4,kr=2,rho=0.5", 8, 8), 5)
    counts: Counter[StepKind] = Counter()
    for (kind, _), count in found.counts.items():
        counts[kind] += count
    # 0 and 4: prompt and response; 2 and 6: the response; the others: half of it.
    assert sorted((kind.whole, kind.picking[1].rows, n) for kind, n in counts.items()) == [
        (False, 4, 4),
        (False, 8, 2),
        (True, 13, 2),
    ]


def test_steps_taken_from_a_silent_state_compute_what_real_ones_do(model: Transformer) -> None:
    _, ticks = start_and_play(model, [[1, 2, 3]], 8, 8, cache="dkv-pd")
    works = [work_of(tick, [11], model.config.layers) for tick in ticks]
    found = outline(model.config, settings_for("dkv-pd", 8, 8), 3)
    assert {flops(model.config, work) for work in works} >= {sample.flops for sample in found.samples}


@pytest.mark.parametrize(
    "cache",
    [pytest.param("none", marks=pytest.mark.slow), "dkv-decode", pytest.param("dllm-cache", marks=pytest.mark.slow)],
)
def test_a_composed_generation_is_near_one_in_full(cache: str) -> None:
    model = Kit(device="cpu").random_weights("micro,width=128,layers=2,heads=2,mlp_width=384,context=1024")
    none = outline(model.config, settings_for("none", 48, 48), 464)
    mine = outline(model.config, settings_for(cache, 48, 48), 464)
    off = []
    for _ in range(4):  # a busy machine disturbs times this short
        taken = side_by_side(model, none.samples, mine.samples, 512, 3)
        off.append(compose(mine.counts, taken.points) / whole_seconds(model, cache) - 1)
        if abs(off[-1]) < 0.2:
            return
    pytest.fail(f"composed is off by {off}")


def whole_seconds(model: Transformer, cache: str) -> float:
    settings = settings_for(cache, 48, 48)
    run = EngineBatch(model, None, requests_of([[0] * 464], [0], settings), exact)
    began = time.process_time()
    for _ in run.steps():
        pass
    return time.process_time() - began
