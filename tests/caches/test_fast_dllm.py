"""Fast-dLLM's caches: the exact rows of every step, on both families."""

from __future__ import annotations

from typing import Any

import pytest

import dkv
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


@pytest.mark.parametrize("cache", ["fast-prefix", "fast-dual", "dpad"])
@pytest.mark.parametrize(
    "decoder", ["threshold:tau=0.01", "threshold", "entropy", "maskgit-plus", "confidence", "factor"]
)
def test_as_published_dreams_blocks_open_with_their_first_position_alone(
    cache: str, decoder: str, dream: Transformer
) -> None:
    state, ticks = start_and_play(dream, [PROMPT, [7]], GEN, 3, cache=f"{cache}:published=true", decoder=decoder)
    for row, start in enumerate((3, 1)):
        opened = [
            positions(tick.committed)[row]
            for tick in ticks
            if int(tick.step.block_step[row]) == 0 and not tick.done[row]
        ]
        assert opened == [[start], [start + 3]]
    assert not state.canvas.masked.any()


def test_as_published_one_step_a_block_still_fixes_all(dream: Transformer) -> None:
    state, _ = start_and_play(dream, [PROMPT], GEN, 3, 2, cache="fast-dual:published=true", decoder="entropy")
    assert not state.canvas.masked.any()


@pytest.mark.parametrize("cache", ["fast-prefix", "fast-dual", "dpad"])
def test_as_published_differs_on_dream_alone(cache: str, model: Transformer, dream: Transformer) -> None:
    """By default a block's first position waits for its turn; where there is no shift, the program's does too."""
    for network, alike in ((model, True), (dream, False)):
        runs = [
            start_and_play(network, [PROMPT], GEN, 3, cache=f"{cache}:published={flag}", decoder="confidence")[0]
            for flag in ("true", "false")
        ]
        assert runs[0].canvas.committed_at.equal(runs[1].canvas.committed_at) is alike


def test_as_published_company_changes_nothing(dream: Transformer) -> None:
    """Beside a request whose cache opens no block in that way."""
    dream_lm = dkv.DiffusionLM(dream, None)
    q: dict[str, Any] = {
        "gen_length": 6,
        "block_length": 3,
        "stop_at_eos": False,
        "temperature": 0.7,
        "decoder": "threshold",
    }
    engine = dkv.Engine(dream_lm)
    specs = ["fast-dual:published=true", "dkv-decode", "dpad:published=true"]
    requests = [dream_lm.request([1, 2, 3], cache=spec, seed=n, **q) for n, spec in enumerate(specs)]
    tickets, got = [engine.add(request) for request in requests], dict[int, list[int]]()
    while updates := engine.step():
        got |= {update.request_id: update.generation.token_ids for update in updates if update.generation}
    for n, (spec, ticket) in enumerate(zip(specs, tickets, strict=True)):
        assert got[ticket] == dream_lm.generate([[1, 2, 3]], cache=spec, seed=n, **q)[0].token_ids


def test_with_one_block_prefix_is_prefill(model: Transformer) -> None:
    one, two = (start_and_play(model, [PROMPT], GEN, cache=c)[0] for c in ("fast-prefix", "dkv-prefill"))
    assert one.canvas.tokens.equal(two.canvas.tokens)
