"""Caches beside no cache on one canvas: the leader is no cache itself, and what follows sees its canvas only."""

from __future__ import annotations

import pytest
import torch

import dkv
from dkv.caches import make_cache
from dkv.lab.doctor.cache_errors import Errors
from dkv.lab.study.side_by_side import Lockstep, Prompts
from dkv.models import Transformer

PROMPTS = [[1, 2, 3, 4, 5, 6, 7], [7, 8, 9]]
SPECS = ("dkv-decode:refresh=1", "dkv-decode:refresh=64,delay=0", "dllm-cache:kp=1,kr=1", "dllm-cache:rho=0,kr=99",
         "dkv-greedy:refresh=8,window=1", "fast-dual")  # fmt: skip


def errors_of(lm: dkv.DiffusionLM, *specs: str, gen_length: int = 16, **more: object) -> list[Errors]:
    done = lm.generate(PROMPTS, gen_length=gen_length, cache="none", seed=0, **more)  # type: ignore[arg-type]
    lockstep = Lockstep(lm, Prompts(PROMPTS, [0, 0], done[0].settings), [make_cache(spec) for spec in specs])
    errors = [Errors(lockstep.stop_ids) for _ in specs]
    for step in lockstep.steps():
        errors[step.number].add(step)
    made = lockstep.results()
    assert [g.token_ids for g in made] == [g.token_ids for g in done]
    assert [(g.stats.forwards, g.stats.rows_computed) for g in made] == [
        (g.stats.forwards, g.stats.rows_computed) for g in done
    ]
    return errors


@pytest.fixture(scope="module")
def found(bare_lm: dkv.DiffusionLM) -> dict[str, Errors]:
    return dict(zip(SPECS, errors_of(bare_lm, *SPECS), strict=True))


def test_caches_that_are_exact_have_no_error(found: dict[str, Errors]) -> None:
    for spec in ("dkv-decode:refresh=1", "dllm-cache:kp=1,kr=1"):
        e = found[spec]
        assert e.decided > 0
        assert e.flipped == 0
        assert e.kl == pytest.approx(0.0, abs=1e-6)
        assert e.mean("decoded") == pytest.approx([0.0] * 2, abs=1e-6)
        assert e.mean("prompt") == pytest.approx([0.0] * 2, abs=1e-6)
    assert found["dllm-cache:kp=1,kr=1"].mean("features") == pytest.approx([0.0] * 2, abs=1e-6)
    assert found["dkv-decode:refresh=1"].mean("features") == []


def test_stale_representations_show_where_they_are(found: dict[str, Errors]) -> None:
    # without a delay the slots hold what the mask gave, in every layer; the prompt's first layer never changes
    stale = found["dkv-decode:refresh=64,delay=0"]
    assert min(stale.mean("decoded")) > 0.05
    assert stale.mean("prompt")[0] == 0 < stale.mean("prompt")[1]
    assert stale.kl > 0
    # dllm-cache computes layer 0 always, and keeps features above it
    features = found["dllm-cache:rho=0,kr=99"].mean("features")
    assert features[0] == 0 < features[1]


def test_all_read_the_same_positions_where_they_read_all(found: dict[str, Errors]) -> None:
    whole = {e.rows for spec, e in found.items() if not spec.startswith(("dkv-greedy", "fast"))}
    assert len(whole) == 1
    assert 0 < found["dkv-greedy:refresh=8,window=1"].rows < whole.pop()


def test_scores_are_what_the_cache_itself_read(bare_lm: dkv.DiffusionLM) -> None:
    """dkv-greedy chooses its rows by them: given those of no cache, it would know what it never computed."""
    done = bare_lm.generate(PROMPTS, gen_length=16, cache="none", seed=0, stop_at_eos=False)
    lockstep = Lockstep(bare_lm, Prompts(PROMPTS, [0, 0], done[0].settings), [make_cache("dkv-greedy:refresh=8")])
    stale, before = 0, None
    for step in lockstep.steps():
        score, width = step.own.step.last_confidence, step.own.step.last_confidence.shape[1]
        if before is not None and before.own.predictions is not None and before.told.predictions is not None:
            read = torch.zeros(2 * width, dtype=torch.bool).scatter(0, before.own.predictions.flat, True).view(2, width)
            assert torch.equal(score[~read], before.own.step.last_confidence[~read])
            stale += int((before.told.predictions.spread(before.told.predictions.token, -1)[~read] >= 0).sum())
        before = step
    assert stale > 0  # no cache read more


def test_ages_are_steps_since_the_prompt_was_computed(bare_lm: dkv.DiffusionLM) -> None:
    (e,) = errors_of(bare_lm, "dllm-cache:kp=4", gen_length=8, stop_at_eos=False)
    # 8 steps, computed at 0 and 4: of 10 prompt tokens, ages 1, 2, 3 twice each
    assert {low: count for low, (_, count) in e.ages.items()} == {1: 20, 2: 40}


def test_blocks_and_shifted_models_work(dream: Transformer) -> None:
    lm = dkv.DiffusionLM(dream, None, audit=True)
    exact, stale = errors_of(lm, "dkv-decode:refresh=1", "dkv-pd", block_length=8)
    assert exact.flipped == 0 == max(exact.mean("decoded"))
    assert stale.decided == exact.decided


def test_end_of_text_is_no_text(bare_lm: dkv.DiffusionLM) -> None:
    done = bare_lm.generate(PROMPTS, gen_length=8, cache="none", seed=0, stop_at_eos=False)
    lockstep = Lockstep(bare_lm, Prompts(PROMPTS, [0, 0], done[0].settings), [make_cache("none")])
    counted, silent = Errors(), Errors(tuple({t for g in done for t in g.token_ids}))
    for step in lockstep.steps():
        counted.add(step)
        silent.add(step)
    assert (counted.decided, silent.decided) == (16, 0)
