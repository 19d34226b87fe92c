"""A run without a model computes what a run with one does."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dkv.lab.bench.flops import work_of
from dkv.lab.bench.replay import replay
from dkv.models import Transformer
from dkv.params import ResolvedParams
from tests.support.flops_cases import settings
from tests.support.runs import POLICIES, start_and_play


def small(cache: str) -> ResolvedParams:
    return replace(settings(cache), gen_length=8, block_length=4, steps=8)


# Greedy's windows follow the order of decoding, which a silent model leaves at left to right.
@pytest.mark.parametrize(
    "cache", [spec for spec in POLICIES if not spec.startswith(("dkv-greedy", "dkv-fill")) and "delay" not in spec]
)
def test_counts_are_those_of_a_model(cache: str, model: Transformer) -> None:
    _, ticks = start_and_play(model, [[1, 2, 3]] * 2, 8, 4, cache=cache)
    expected = [work_of(tick, [11, 11], model.config.layers) for tick in ticks]
    assert list(replay(model.config, small(cache), 3, batch=2)) == expected


def test_it_fills_the_canvas_whatever_the_settings_say(model: Transformer) -> None:
    works = list(replay(model.config, replace(small("none"), stop_at_eos=True), 3))
    assert [work.reads for work in works] == [4, 3, 2, 1, 4, 3, 2, 1]
