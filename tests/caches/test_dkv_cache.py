"""dKV-Cache's policies: the exact rows of every step on a hand-made run, what each keeps, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dkv.caches import make_cache
from dkv.caches.dkv_cache import Decode, Greedy, Prefill, PrefillAndDecode
from dkv.decoders import RandomOrder
from dkv.errors import SpecError
from dkv.models import Transformer
from tests.support.runs import Recorder, positions, start_and_play

PROMPT, GEN = [1, 2, 3], 6  # positions 0-2 are the prompt, 3-8 the response
ORDER = [[[5, 3, 8, 4, 7, 6]]]
BLOCKS = [[[4, 3, 5]], [[8, 6, 7]]]
EVERY = list(range(9))


def rows(model: Transformer, cache: str, order: list[list[list[int]]] | None = None, steps: int = 6) -> list[list[int]]:
    """What is computed at each step while ORDER (or another) is decoded."""
    order = ORDER if order is None else order
    _, ticks = start_and_play(
        model, [PROMPT], GEN, GEN // len(order), steps, cache=cache, decoder=RandomOrder(order), audit=False
    )
    return [positions(tick.rows)[0] for tick in ticks]


# Masked before each step of ORDER: all, then without 5, 3, 8, 4, 7 in turn.
LEFT = [[3, 4, 5, 6, 7, 8], [3, 4, 6, 7, 8], [4, 6, 7, 8], [4, 6, 7], [6, 7], [6]]

EXPECTED: dict[str, list[list[int]]] = {
    "none": [EVERY] * 6,
    # Masked, and what the last step fixed.
    "dkv-decode:refresh=4": [EVERY, EVERY, [3, 4, 6, 7, 8], [4, 6, 7, 8], EVERY, [6, 7]],
    "dkv-decode:refresh=100": [EVERY, EVERY, LEFT[1], LEFT[2], LEFT[3], LEFT[4]],
    "dkv-decode:refresh=100,warmup=1": [EVERY, LEFT[0], LEFT[1], LEFT[2], LEFT[3], LEFT[4]],
    "dkv-decode:refresh=100,warmup=1,delay=0": [EVERY, *LEFT[1:]],
    "dkv-decode:refresh=100,warmup=1,delay=2": [EVERY, LEFT[0], LEFT[0], LEFT[1], LEFT[2], LEFT[3]],
    "dkv-decode:refresh=3,warmup=3": [EVERY, EVERY, EVERY, EVERY, LEFT[3], LEFT[4]],
    # Next, last, and a window of masked positions that walks outward from the next, left first.
    "dkv-greedy:refresh=100,window=0": [EVERY, [3, 5], [3, 8], [4, 8], [4, 7], [6, 7]],
    "dkv-greedy:refresh=100,window=1": [EVERY, [3, 4, 5], [3, 7, 8], [4, 6, 8], [4, 6, 7], [6, 7]],
    "dkv-greedy:refresh=100,window=2": [EVERY, [3, 4, 5, 6], [3, 6, 7, 8], [4, 6, 7, 8], [4, 6, 7], [6, 7]],
    "dkv-greedy:refresh=100,window=50": [EVERY, LEFT[0], LEFT[1], LEFT[2], LEFT[3], LEFT[4]],
    "dkv-greedy:refresh=2,window=0": [EVERY, [3, 5], EVERY, [4, 8], EVERY, [6, 7]],
    "dkv-prefill": [EVERY, *[[3, 4, 5, 6, 7, 8]] * 5],
    "dkv-prefill:refresh=3": [EVERY, LEFT[0], LEFT[0], EVERY, LEFT[0], LEFT[0]],
    "dkv-pd:refresh=100": [EVERY, LEFT[0], LEFT[1], LEFT[2], LEFT[3], LEFT[4]],
    "dkv-pd:refresh=3": [EVERY, LEFT[0], LEFT[1], LEFT[0], LEFT[3], LEFT[4]],
}


@pytest.mark.parametrize("cache", EXPECTED)
def test_rows_of_every_step(cache: str, model: Transformer) -> None:
    assert rows(model, cache) == EXPECTED[cache]


EXPECTED_BLOCKS: dict[str, list[list[int]]] = {
    "dkv-decode:refresh=100": [EVERY, EVERY, [3, 5, 6, 7, 8], EVERY, EVERY, [6, 7]],
    "dkv-greedy:refresh=100,window=0": [EVERY, [3, 4], [3, 5], EVERY, [6, 8], [6, 7]],
    # The window may reach into the block to come.
    "dkv-greedy:refresh=100,window=3": [EVERY, [3, 4, 5, 6, 7], [3, 5, 6, 7, 8], EVERY, [6, 7, 8], [6, 7]],
    "dkv-prefill": [EVERY, LEFT[0], LEFT[0], EVERY, LEFT[0], LEFT[0]],
    "dkv-pd:refresh=100": [EVERY, [3, 4, 5, 6, 7, 8], [3, 5, 6, 7, 8], EVERY, [6, 7, 8], [6, 7]],
}


@pytest.mark.parametrize("cache", EXPECTED_BLOCKS)
def test_every_block_starts_afresh(cache: str, model: Transformer) -> None:
    assert rows(model, cache, BLOCKS) == EXPECTED_BLOCKS[cache]


def test_windows_of_several_wanted_positions_do_not_share(model: Transformer) -> None:
    """Two a step: each position in turn takes its own masked neighbours, those of the earlier one being gone."""
    got = rows(model, "dkv-greedy:refresh=100,window=1", [[[3, 8, 6, 5, 4, 7]]], steps=3)
    # Step 1 decodes 6 and 5 after 3 and 8: from 6, left: 5 is wanted itself, so 7; from 5, left: 4.
    assert got == [EVERY, [3, 4, 5, 6, 7, 8], [4, 5, 6, 7]]


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        # 5 takes 4 and 6; 7 finds 6 gone, takes 8, and further out 10.
        ([5, 7], [1, 4, 5, 6, 7, 8, 9, 10]),
        # 7 takes 6 and 8; 5 takes 4, finds 6 gone, and further out, left first, 3.
        ([7, 5], [1, 3, 4, 5, 6, 7, 8, 9]),
    ],
)
def test_the_commit_order_decides_who_takes_a_shared_neighbour(
    wanted: list[int], expected: list[int], model: Transformer
) -> None:
    order = [[[1, 9, *wanted, 2, 3, 4, 6, 8, 10]]]
    _, ticks = start_and_play(
        model, [[1]], 10, steps=5, cache="dkv-greedy:refresh=9,window=2", decoder=RandomOrder(order)
    )
    assert positions(ticks[1].rows)[0] == expected


def test_rows_do_not_depend_on_the_neighbours(model: Transformer) -> None:
    """The walk of each sequence is its own, ragged rows and different orders included."""
    orders = [[[5, 3, 8, 4, 7, 6], [1, 2, 3, 4, 5, 6]]]
    _, ticks = start_and_play(
        model, [PROMPT, [9]], GEN, cache="dkv-greedy:refresh=100,window=1", decoder=RandomOrder(orders)
    )
    assert [positions(tick.rows)[0] for tick in ticks] == EXPECTED["dkv-greedy:refresh=100,window=1"]
    assert [positions(tick.rows)[1] for tick in ticks] == [
        list(range(7)), [1, 2, 3], [2, 3, 4], [3, 4, 5], [4, 5, 6], [5, 6],
    ]  # fmt: skip


@pytest.mark.parametrize("window", [0, 2])
def test_greedy_without_a_known_order_predicts_it(window: int, model: Transformer) -> None:
    """Next is what was read with the highest confidence; only what is computed is read."""
    recorder = Recorder(make_cache(f"dkv-greedy:refresh=100,window={window}"))
    _, ticks = start_and_play(model, [PROMPT], 12, 6, 12, cache=recorder)
    for number, tick in enumerate(ticks):
        read = [] if tick.predictions is None else (tick.predictions.flat % 15).tolist()
        fresh = positions(recorder.fresh[number])[0]
        masked, score = recorder.masked[number][0], recorder.score[number][0]
        block = [p for p in range(3 + number // 6 * 6, 9 + number // 6 * 6) if masked[p]]
        if number % 6 == 0:
            assert read == block
            assert tick.counts == [15]
            continue
        best = max(block, key=lambda p: (float(score[p]), -p))
        near = sorted((p for p in range(15) if masked[p] and p != best), key=lambda p: (abs(p - best), p))[:window]
        assert positions(tick.rows)[0] == sorted({best, *fresh, *near})
        assert read == sorted({best, *near} & {*block})


def test_greedy_predicts_as_many_as_the_schedule_fixes(model: Transformer) -> None:
    _, ticks = start_and_play(model, [PROMPT], 12, 12, 4, cache="dkv-greedy:refresh=100,window=0")
    assert [tick.counts[0] for tick in ticks] == [15, 6, 6, 6]
    assert [len(positions(tick.committed)[0]) for tick in ticks] == [3, 3, 3, 3]


def test_several_tokens_a_step_are_all_delayed(model: Transformer) -> None:
    assert rows(model, "dkv-decode:refresh=100,warmup=1", steps=3) == [EVERY, LEFT[0], LEFT[2]]


def test_the_delays_differ(model: Transformer) -> None:
    """On real logits: each reads K/V of another age."""
    runs = [
        start_and_play(model, [PROMPT], 16, cache=f"dkv-decode:refresh=100,warmup=1,delay={delay}")
        for delay in (0, 1, 2)
    ]
    final = [ticks[-1].predictions for _, ticks in runs]
    assert len({tuple(tick.counts[0] for tick in ticks) for _, ticks in runs}) == 3
    for one in range(3):
        for other in range(one):
            a, b = final[one], final[other]
            assert a is not None
            assert b is not None
            assert not torch.allclose(a.logits, b.logits)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("dkv-decode:refresh=0", "refresh=0 must be a whole number of at least 1"),
        ("dkv-decode:refresh=-3", "refresh=-3 must be a whole number of at least 1"),
        ("dkv-decode:delay=-1", "delay=-1 must be a whole number of at least 0"),
        ("dkv-decode:warmup=0", "warmup=0 must be a whole number of at least 1"),
        ("dkv-greedy:refresh=0", "refresh=0 must be a whole number of at least 1"),
        ("dkv-greedy:window=-1", "window=-1 must be a whole number of at least 0"),
        ("dkv-prefill:refresh=-1", "refresh=-1 must be a whole number of at least 0"),
        ("dkv-decode:refresh=2147483648", "refresh=2147483648 must"),
        ("dkv-pd:refresh=0", "refresh=0 must be a whole number of at least 1"),
    ],
)
def test_keys_out_of_range_are_refused(spec: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        make_cache(spec)


@pytest.mark.parametrize("value", [2.0, True, "4", None])
def test_objects_check_their_keys_too(value: Any) -> None:
    for kind in (Decode, Greedy, Prefill, PrefillAndDecode):
        with pytest.raises(SpecError, match=r"refresh=.* must be a whole number"):
            kind(refresh=value)
