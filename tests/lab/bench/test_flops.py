"""The analytic counts against torch's own counter, and against the figures published for dLLM-Cache."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import pytest
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from dkv.core.loop import advance
from dkv.lab.bench.flops import LayerWork, Work, flops, work_of
from dkv.lab.bench.replay import replay
from dkv.lab.bench.shapes import SHAPES
from dkv.models import Transformer
from tests.support.counting import counting
from tests.support.flops_cases import GEN, settings
from tests.support.runs import POLICIES, start

LLADA = SHAPES["llada-8b"]
PROMPT = 893
TOTAL = PROMPT + GEN


@pytest.mark.parametrize("cache", POLICIES)
@pytest.mark.parametrize("family", ["llada", "dream"])
def test_every_step_is_what_torch_counts(cache: str, family: str, model: Transformer, dream: Transformer) -> None:
    network = model if family == "llada" else dream
    state = start(network, [[1, 2, 3, 4, 5]], 8, 4, cache=cache, audit=False)
    expected, counted = [], []
    while True:
        # In parts: the fused kernel's products are none that the counter knows.
        with sdpa_kernel(SDPBackend.MATH), counting() as counter:
            tick = advance(state)
        if tick is None:
            break
        counted.append(counter.get_total_flops())
        expected.append(flops(network.config, work_of(tick, [13], network.config.layers)))
    assert expected == counted
    assert len(set(expected)) > 1


@pytest.mark.parametrize("cache", ["none", "dkv-decode", "fast-dual", "dllm-cache"])
def test_every_guided_step_is_what_torch_counts(cache: str, model: Transformer) -> None:
    """The head runs on the guides' rows too."""
    state = start(model, [[1, 2, 3, 4, 5]], 12, 4, cache=cache, cfg_scale=1.5, audit=False)
    while True:
        with sdpa_kernel(SDPBackend.MATH), counting() as counter:
            tick = advance(state)
        if tick is None:
            break
        assert flops(model.config, work_of(tick, [17, 17], model.config.layers)) == counter.get_total_flops()


@pytest.mark.parametrize("cfg_scale", [0.0, 1.5])
@pytest.mark.parametrize("cache", ["none", "dllm-cache:kp=4,kr=2,cfg_interval=3", "dkv-fill:rows=4"])
def test_head_rows_are_those_that_the_head_sees(
    cache: str, cfg_scale: float, model: Transformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where guides may rest, the head runs once more on what was kept of both."""
    seen: list[int] = []
    logits = Transformer.logits

    def counted(self: Transformer, x: Tensor) -> Tensor:
        seen.append(len(x))
        return logits(self, x)

    monkeypatch.setattr(Transformer, "logits", counted)
    state = start(model, [[1, 2, 3, 4, 5]], 12, 4, cache=cache, cfg_scale=cfg_scale, audit=False)
    while (tick := advance(state)) is not None:
        assert tick.head_rows == work_of(tick, tick.lengths, model.config.layers).reads == sum(seen)
        seen.clear()


def test_a_batch_is_the_sum_of_its_sequences(model: Transformer) -> None:
    prompts, layers = [[1, 2, 3, 4], [5, 6]], model.config.layers
    together = start(model, prompts, 6, cache="dllm-cache:kp=4,kr=3,rho=0.5")
    alone = [start(model, [p], 6, cache="dllm-cache:kp=4,kr=3,rho=0.5", seeds=[i]) for i, p in enumerate(prompts)]
    while (tick := advance(together)) is not None:
        parts = [advance(state) for state in alone]
        works = [work_of(one, [length], layers) for one, length in zip(parts, (10, 8), strict=True) if one is not None]
        assert flops(model.config, work_of(tick, [10, 8], layers)) == sum(flops(model.config, work) for work in works)


def published(kp: int, kr: int, rho: float, first_layer: bool, head: int) -> Iterator[Work]:
    """The rows that the published program of dLLM-Cache computes of LLaDA-8B: layer 0 whole at every step (since July
    2025), the values of all rows that are looked at, the head on `head` rows."""
    for step in range(GEN):
        response = GEN if step % kr == 0 else int(GEN * rho)
        rows = response + (PROMPT if step % kp == 0 else 0)
        values = GEN + (PROMPT if step % kp == 0 else 0)
        usual = LayerWork(31, values, rows, rows * TOTAL)
        yield Work((LayerWork(1, TOTAL, TOTAL, TOTAL**2) if first_layer else replace(usual, layers=1), usual), head)


VANILLA = [Work((LayerWork(32, TOTAL, TOTAL, TOTAL**2),), TOTAL)] * GEN


def total(works: Iterable[Work], attention: bool = True) -> int:
    return sum(flops(LLADA, w if attention else without_attention(w)) for w in works)


def without_attention(work: Work) -> Work:
    return Work(tuple(replace(part, pairs=0) for part in work.parts), work.reads)


@pytest.mark.parametrize(
    ("kp", "first_layer", "linear", "whole"),
    [(50, True, 5.09, 5.16), (100, True, 5.31, 5.39), (50, False, 5.86, 5.96), (100, False, 6.17, 6.28)],
)
def test_the_published_factors_of_dllm_cache(kp: int, first_layer: bool, linear: float, whole: float) -> None:
    works = list(published(kp, 7, 0.25, first_layer, TOTAL))
    assert total(VANILLA) / total(works) == pytest.approx(whole, abs=0.01)
    assert total(VANILLA, False) / total(works, False) == pytest.approx(linear, abs=0.01)


@pytest.mark.parametrize(("kp", "factor"), [(50, 7.03), (100, 7.46)])
def test_reading_the_response_alone_makes_seven_of_five(kp: int, factor: float) -> None:
    assert total(VANILLA) / total(published(kp, 7, 0.25, True, GEN)) == pytest.approx(factor, abs=0.01)


def test_ours_computes_layer_0_only_where_carried_and_reads_only_what_is_masked() -> None:
    ours = list(replay(LLADA, settings("dllm-cache:kp=50,kr=7,rho=0.25"), PROMPT))
    none = list(replay(LLADA, settings("none"), PROMPT))
    assert len(ours) == len(none) == GEN
    assert total(VANILLA) / total(ours) == pytest.approx(8.87, abs=0.01)
    assert total(none) / total(ours) == pytest.approx(8.35, abs=0.01)


def test_a_row_by_hand() -> None:
    c = replace(LLADA, width=6, heads=2, kv_heads=1, head_dim=4, mlp_width=5, vocab=7)
    # values 6x4; q, k 6x12, out 8x6, MLP 3 times 6x5; scores and mixing 8 each; head 6x7
    assert flops(c, Work((LayerWork(1, 1, 0, 0),), 0)) == 2 * 24
    assert flops(c, Work((LayerWork(3, 0, 1, 0),), 0)) == 3 * 2 * (72 + 48 + 90)
    assert flops(c, Work((LayerWork(1, 0, 0, 1),), 0)) == 2 * 16
    assert flops(c, Work((), 1)) == 2 * 42
