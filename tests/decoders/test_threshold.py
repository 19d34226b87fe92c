"""Threshold and factor: every position that the model is sure of, at least the schedule's share; blocks end early."""

from __future__ import annotations

import pytest

from dkv.decoders import make_decoder
from dkv.errors import SpecError
from dkv.models import Transformer
from tests.support.commits import commits, sure
from tests.support.runs import positions, start_and_play


def test_all_above_the_threshold_at_once(model: Transformer) -> None:
    assert commits(model, [0.95, 0.5, 0.91, 0.85], "threshold") == [[1, 3], [4], [2]]
    assert commits(model, [0.95, 0.5, 0.91, 0.85], "threshold:tau=0.8") == [[1, 3, 4], [2]]
    assert commits(model, [0.95, 0.5, 0.91, 0.85], "threshold:tau=1") == [[1], [3], [4], [2]]


def test_steps_bound_the_number_of_forwards(model: Transformer) -> None:
    assert commits(model, [0.4, 0.3, 0.2, 0.1], "threshold", 4, 2) == [[1, 2], [3, 4]]
    assert commits(model, [0.95, 0.3, 0.2, 0.1], "threshold", 4, 2) == [[1, 2], [3, 4]]


def test_a_block_ends_when_it_is_complete(model: Transformer) -> None:
    assert commits(model, [0.95, 0.96, 0.5, 0.95], "threshold", 2) == [[1, 2], [4], [3]]


def test_sequences_commit_unequal_numbers(model: Transformer) -> None:
    """And each goes on to its next block on its own."""
    table = sure(model, [0.5, 0.95, 0.95, 0.5, 0.5, 0.95])
    _, ticks = start_and_play(table, [[1], [1, 1]], 4, 2, decoder="threshold")
    assert [positions(tick.committed) for tick in ticks] == [[[1, 2], [2]], [[3], [3]], [[4], [5]], [[], [4]]]
    assert [tick.done for tick in ticks] == [[False, False]] * 3 + [[True, False]]


def test_factor_takes_the_largest_n_that_holds(model: Transformer) -> None:
    """(n + 1)(1 - c_n) < factor: with 1.0, two need c_2 > 2/3, three c_3 > 3/4."""
    assert commits(model, [0.9, 0.7, 0.7], "factor") == [[1, 2], [3]]
    assert commits(model, [0.9, 0.8, 0.76], "factor") == [[1, 2, 3]]
    assert commits(model, [0.9, 0.6, 0.6], "factor") == [[1], [2], [3]]
    assert commits(model, [0.9, 0.6, 0.6], "factor:factor=2") == [[1, 2, 3]]


def test_factor_as_published_fixes_the_last_open_position_with_all_others(model: Transformer) -> None:
    """So that of two open positions both go; by default the second waits where it does not pass."""
    assert commits(model, [0.9, 0.6], "factor") == [[1], [2]]
    assert commits(model, [0.9, 0.6], "factor:published=true") == [[1, 2]]
    assert commits(model, [0.9, 0.8, 0.4], "factor") == [[1, 2], [3]]
    assert commits(model, [0.9, 0.8, 0.4], "factor:published=true") == [[1, 2, 3]]
    assert commits(model, [0.9, 0.6, 0.6], "factor:published=true") == [[1], [2, 3]]
    assert commits(model, [0.9, 0.6, 0.55, 0.5], "factor:published=true") == [[1], [2], [3, 4]]


def test_threshold_as_published_holds_tau_against_the_filtered_distribution_on_dream(
    model: Transformer, dream: Transformer
) -> None:
    """With top_p=0.4 one token is left everywhere, which is then certain."""
    for network, published, first in ((dream, "true", [1, 2, 3]), (dream, "false", [3]), (model, "true", [3])):
        # Dream's row p predicts position p + 1.
        still = sure(network, [0.5, 0.6, 0.7, 0.5] if network is dream else [0.5, 0.5, 0.6, 0.7])
        _, ticks = start_and_play(still, [[1]], 3, decoder=f"threshold:published={published}", top_p=0.4)
        assert positions(ticks[0].committed)[0] == first


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("threshold:tau=0", "tau=0.0 must lie in"),
        ("threshold:tau=1.1", "tau=1.1 must lie in"),
        ("factor:factor=0", "factor=0.0 must be a positive number"),
        ("factor:factor=inf", "factor=inf must be a positive number"),
    ],
)
def test_keys_out_of_range_are_refused(spec: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        make_decoder(spec)
