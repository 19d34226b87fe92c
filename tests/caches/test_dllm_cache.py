"""dLLM-Cache: what is carried and renewed when, how drift is measured, and what it refuses."""

from __future__ import annotations

import pytest
import torch

from dkv.caches import make_cache
from dkv.errors import SpecError
from dkv.models import Transformer
from tests.support.runs import play, positions, start, start_and_play

PROMPT, GEN = [1, 2, 3], 6
EVERY, RESPONSE = list(range(9)), list(range(3, 9))


def carried(model: Transformer, cache: str, **options: float) -> list[list[int]]:
    _, ticks = start_and_play(model, [PROMPT], GEN, cache=cache, **options)
    return [positions(tick.rows)[0] for tick in ticks]


def test_the_prompt_is_carried_when_it_is_due(model: Transformer, dream: Transformer) -> None:
    cache = "dllm-cache:kp=4,kr=2"
    assert carried(model, cache) == [EVERY, RESPONSE, RESPONSE, RESPONSE, EVERY, RESPONSE]
    # Dream's last prompt row predicts the first token of the response.
    assert carried(dream, cache) == [EVERY, [2, *RESPONSE], [2, *RESPONSE], [2, *RESPONSE], EVERY, [2, *RESPONSE]]


def test_minus_one_is_every_forward(model: Transformer) -> None:
    """As the published scripts write it."""
    one, other = (start_and_play(model, [PROMPT], GEN, cache=c) for c in ("dllm-cache:kp=-1,kr=-1,rho=0", "none"))
    assert one[0].canvas.tokens.equal(other[0].canvas.tokens)
    assert [tick.work for tick in one[1]] == [tick.work for tick in other[1]]


def test_blocks_do_not_reset_the_count(model: Transformer) -> None:
    _, ticks = start_and_play(model, [PROMPT], GEN, 2, cache="dllm-cache:kp=4,kr=5")
    assert [positions(tick.rows)[0] for tick in ticks] == [EVERY, RESPONSE, RESPONSE, RESPONSE, EVERY, RESPONSE]


@pytest.mark.parametrize(
    ("keys", "work"),
    [
        # Two layers: the first computes what is carried; the second what is forced, and int(6 * rho) more.
        ("kp=4,kr=3,rho=0.5", [18, 6 + 3, 6 + 3, 6 + 6, 9 + 6, 6 + 3]),
        ("kp=4,kr=3,rho=0", [18, 6, 6, 6 + 6, 9 + 3, 6]),
        ("kp=4,kr=3,rho=0.1", [18, 6, 6, 6 + 6, 9 + 3, 6]),
        ("kp=4,kr=3,rho=1.5", [18, 6, 6, 6 + 6, 9 + 3, 6]),
        ("kp=100,kr=100,rho=0.34,first_layer=false", [18, 4, 4, 4, 4, 4]),
    ],
)
def test_rows_through_the_layers(keys: str, work: list[int], model: Transformer) -> None:
    assert model.config.layers == 2
    _, ticks = start_and_play(model, [PROMPT], GEN, cache=f"dllm-cache:{keys}")
    assert [tick.work[0] for tick in ticks] == work


def test_the_share_is_a_truncated_product(model: Transformer) -> None:
    """int(100 * 0.29) is 28 in a Python float."""
    _, ticks = start_and_play(model, [[1]], 50, steps=2, cache="dllm-cache:kp=9,kr=9,rho=0.58")
    assert int(50 * 0.58) == 28
    assert ticks[1].work[0] == 50 + 28


def test_budgets_are_each_sequence_s_own(model: Transformer) -> None:
    """Ragged prompts, one of them due: nobody computes more than alone."""
    state = start(model, [PROMPT, [4]], GEN, cache="dllm-cache:kp=2,kr=3,rho=0.5")
    assert state.memory.nbytes == model.new_kv_cache(2, 9).nbytes  # no feature buffers before they are used
    alone = [start_and_play(model, [p], GEN, cache="dllm-cache:kp=2,kr=3,rho=0.5")[1] for p in (PROMPT, [4])]
    _, ticks = start_and_play(model, [PROMPT, [4]], GEN, cache="dllm-cache:kp=2,kr=3,rho=0.5")
    for tick, *mine in zip(ticks, *alone, strict=True):
        assert tick.work == [m.work[0] for m in mine]


def test_the_guide_rests_between_its_turns(model: Transformer) -> None:
    _, ticks = start_and_play(model, [PROMPT], 12, cache="dllm-cache:kp=1,kr=1,cfg_interval=4", cfg_scale=1.0)
    assert [tick.counts[1] > 0 for tick in ticks] == [step < 5 or step % 4 == 0 for step in range(12)]
    assert ticks[-1].step.num_forwards.tolist() == [11, 6]


@pytest.mark.parametrize("seed", range(4))
def test_a_rested_guide_is_asked_for_what_its_row_is_asked_for(seed: int, model: Transformer) -> None:
    """Also where the decoder draws by the count of forwards, of which the guide has fewer."""
    cache = "dllm-cache:kp=6,kr=3,cfg_interval=3"
    state = start(model, [[1]], 6, 3, 10, cache=cache, cfg_scale=1.5, decoder="origin", seeds=[seed])
    for step in play(state):
        assert step.step.query[1].equal(step.step.query[0])
    assert not state.canvas.masked.any()


def test_a_rested_guide_s_difference_is_the_last_one(model: Transformer) -> None:
    """Where nothing else is cached, the guided logits are this step's plus scale times the difference of that step."""
    plain, rested = (
        start_and_play(model, [PROMPT], 12, cache=f"dllm-cache:kp=1,kr=1,cfg_interval={n}", cfg_scale=1.0)
        for n in (1, 4)
    )
    for step in range(5):
        a, b = plain[1][step].predictions, rested[1][step].predictions
        assert a is not None
        assert b is not None
        assert a.logits.equal(b.logits)
    a, b = plain[1][5].predictions, rested[1][5].predictions
    assert a is not None
    assert b is not None
    assert not torch.allclose(a.logits, b.logits)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("dllm-cache:kp=0", "kp=0 must be a whole number of at least 1"),
        ("dllm-cache:kr=-2", "kr=-2 must be a whole number of at least 1"),
        ("dllm-cache:cfg_interval=0", "cfg_interval=0 must be a whole number of at least 1"),
        ("dllm-cache:rho=nan", "rho=nan must be a share"),
        ("dllm-cache:similarity=dot", "similarity='dot' is unknown; known: cosine, l2"),
        ("dllm-cache:first_layer=2", "is not true or false"),
    ],
)
def test_keys_out_of_range_are_refused(spec: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        make_cache(spec)
