"""Random orders: drawn from the seed alone, spread evenly, and given ones that are checked."""

from __future__ import annotations

from collections import Counter

import pytest

from dkv.core.canvas import Canvas, lay_out
from dkv.decoders import RandomOrder, make_decoder
from dkv.errors import SettingError, SpecError
from dkv.models import Transformer
from tests.support.runs import POLICIES, positions, start_and_play


def orders(model: Transformer, prompts: list[list[int]], seeds: list[int], **options: object) -> list[list[int]]:
    """The positions of each sequence's response as they were fixed."""
    found: list[list[int]] = [[] for _ in prompts]
    _, ticks = start_and_play(model, prompts, 6, **{"seeds": seeds, "decoder": "random", **options})
    for tick in ticks:
        for row, fixed in enumerate(positions(tick.committed)):
            found[row] += fixed
    return found


def test_neither_company_nor_cache_changes_an_order(model: Transformer) -> None:
    prompts, seeds = [[1, 2, 3], [4], [5, 6]], [3, 9, 3]
    expected = [orders(model, [p], [s])[0] for p, s in zip(prompts, seeds, strict=True)]
    for cache in POLICIES:
        assert orders(model, prompts, seeds, cache=cache) == expected
    assert len({tuple(p - len(prompts[row]) for p in order) for row, order in enumerate(expected)}) == 3


def test_a_seed_of_its_own_replaces_the_request_seed(model: Transformer) -> None:
    one = orders(model, [[1]], [0], decoder="random:seed=5")
    assert one == orders(model, [[1]], [1], decoder="random:seed=5")
    assert one == orders(model, [[1]], [5])
    assert one != orders(model, [[1]], [0])


def test_the_order_ignores_the_temperature(model: Transformer) -> None:
    assert orders(model, [[1]], [4], temperature=0.9) == orders(model, [[1]], [4])


def test_orders_are_even() -> None:
    """Over many seeds each position comes first about equally often: chi-square, 5 degrees, 0.999 quantile 20.5."""
    count = 3000
    canvas = lay_out([[1]] * count, 6, 99, list(range(count)))
    order = make_decoder("random").commit_order(canvas)[:, 1:]
    first = Counter(order.argmin(1).tolist())
    assert sum((first[p] - count / 6) ** 2 / (count / 6) for p in range(6)) < 20.5


def test_blocks_are_kept(model: Transformer) -> None:
    found = orders(model, [[1, 2]], [8], block_length=3)[0]
    assert sorted(found[:3]) == [2, 3, 4]
    assert sorted(found[3:]) == [5, 6, 7]


def test_only_what_is_about_to_be_fixed_is_read(model: Transformer) -> None:
    _, ticks = start_and_play(model, [[1], [2, 3]], 6, steps=3, decoder="random")
    assert [tick.predictions.flat.numel() for tick in ticks if tick.predictions] == [4, 4, 4]
    assert all(tick.committed.equal(tick.step.query) for tick in ticks)


def test_a_given_order_is_followed(model: Transformer) -> None:
    given = [[[3, 1, 2], [2, 4, 3]], [[6, 5, 4], [5, 6, 7]]]
    found = orders(model, [[1], [2, 3]], [0, 0], decoder=RandomOrder(given), block_length=3)
    assert found == [[3, 1, 2, 6, 5, 4], [2, 4, 3, 5, 6, 7]]


@pytest.mark.parametrize(
    "given",
    [
        [[[1, 2]]],
        [[[1, 2, 2]]],
        [[[0, 1, 2]]],
        [[[1, 2, 3, 4]]],
        [[]],
        [],
        [[[-1, 1, 2]]],
    ],
)
def test_a_bad_order_is_refused(given: list[list[list[int]]]) -> None:
    canvas: Canvas = lay_out([[7]], 3, 99, [0])
    with pytest.raises(SettingError, match="row 0 must list each masked position"):
        RandomOrder(given).commit_order(canvas)


@pytest.mark.parametrize("seed", ["-1", str(1 << 62)])
def test_a_seed_out_of_range_is_refused(seed: str) -> None:
    with pytest.raises(SpecError, match="seed"):
        make_decoder(f"random:seed={seed}")
