"""Fast-dLLM's caches: the exact rows of every step, on both families."""

from __future__ import annotations

from dkv.decoders import RandomOrder
from dkv.models import Transformer
from tests.support.runs import positions, start_and_play

PROMPT, GEN = [1, 2, 3], 6
BLOCKS = [[[4, 3, 5]], [[8, 6, 7]]]
EVERY = list(range(9))


def rows(model: Transformer, cache: str) -> list[list[int]]:
    _, ticks = start_and_play(model, [PROMPT], GEN, 3, cache=cache, decoder=RandomOrder(BLOCKS))
    return [positions(tick.rows)[0] for tick in ticks]


def test_prefix_keeps_what_lies_before_the_block(model: Transformer) -> None:
    after = [3, 4, 5, 6, 7, 8]
    assert rows(model, "fast-prefix") == [EVERY, after, after, EVERY, [6, 7, 8], [6, 7, 8]]


def test_dual_keeps_what_lies_after_it_too(model: Transformer) -> None:
    assert rows(model, "fast-dual") == [EVERY, [3, 4, 5], [3, 4, 5], EVERY, [6, 7, 8], [6, 7, 8]]


def test_with_a_shift_the_row_before_the_block_stays_while_it_predicts(dream: Transformer) -> None:
    """Position 3 is decoded at the second step, by row 2; position 6 at the fifth, by row 5."""
    assert rows(dream, "fast-dual") == [EVERY, [2, 3, 4, 5], [3, 4, 5], EVERY, [5, 6, 7, 8], [6, 7, 8]]


def test_with_one_block_prefix_is_prefill(model: Transformer) -> None:
    one, two = (start_and_play(model, [PROMPT], GEN, cache=c)[0] for c in ("fast-prefix", "dkv-prefill"))
    assert one.canvas.tokens.equal(two.canvas.tokens)
