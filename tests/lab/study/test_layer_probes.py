"""What a probe yields is what the engine computes without a cache, step by step."""

from __future__ import annotations

import pytest
import torch

import dkv
from dkv.caches import make_cache
from dkv.core.canvas import GIVEN, NEVER
from dkv.errors import PromptError
from dkv.lab.study.layer_probes import Observe, buffers_of, observe
from dkv.lab.study.runs import ids_of
from dkv.lab.study.side_by_side import Prompts, run_of
from dkv.layers.v_verify import ADDED

PROMPTS = [[1, 2, 3, 4, 5], [7, 8, 9]]


def prompts_of(lm: dkv.DiffusionLM, gen_length: int = 8) -> Prompts:
    done = lm.generate(PROMPTS, gen_length=gen_length, cache="none", seed=0)
    return Prompts(PROMPTS, [0, 0], done[0].settings)


def test_observing_changes_nothing(bare_lm: dkv.DiffusionLM) -> None:
    none = bare_lm.generate(PROMPTS, gen_length=8, cache="none", seed=0)
    seen = bare_lm.generate(PROMPTS, gen_length=8, cache=Observe(), seed=0)
    assert [g.token_ids for g in seen] == [g.token_ids for g in none]
    assert [g.stats.rows_computed for g in seen] == [g.stats.rows_computed for g in none]


def test_snapshots_hold_what_no_cache_computes(bare_lm: dkv.DiffusionLM) -> None:
    """Bit for bit: keys and values are those of a run under `none`, features those of dllm-cache with kp=kr=1."""
    given = prompts_of(bare_lm)
    none, kept = (run_of(bare_lm, given, make_cache(spec)) for spec in ("none", "dllm-cache:kp=1,kr=1"))
    for seen, _, _ in zip(observe(bare_lm, PROMPTS, 8), none.steps(), kept.steps(), strict=True):
        for row in range(2):
            place = slice(0, seen.length[row])
            for name in ("k", "v"):
                exact = buffers_of(none.state.memory.layers, name)[:, row, place]
                assert torch.equal(getattr(seen, name)[:, row, place], exact)
            added = buffers_of(kept.state.memory.layers[1:], ADDED)[:, row, place]
            assert torch.equal((seen.attn + seen.mlp)[1:, row, place], added)


def test_snapshots_tell_where_and_when(bare_lm: dkv.DiffusionLM) -> None:
    seen = list(observe(bare_lm, PROMPTS, 8))
    assert [s.clock for s in seen] == list(range(len(seen)))
    assert (seen[0].prompt, seen[0].length) == ([5, 3], [13, 11])
    assert all(seen[0].active)
    for s in seen:
        assert (s.committed_at[0, :5] == GIVEN).all()
        decided = s.committed_at[0, 5:13]
        assert int((decided != NEVER).sum()) >= min(s.clock + 1, 8)
        assert int(decided[decided != NEVER].max()) <= s.clock + 1
    # a later step does not write into what was yielded before
    assert not torch.equal(seen[0].k, seen[1].k)


def test_texts_need_a_tokenizer(lm: dkv.DiffusionLM, bare_lm: dkv.DiffusionLM) -> None:
    assert ids_of(lm, ["Hi"]) == [lm.generate("Hi", gen_length=1, seed=0)[0].prompt_ids]
    with pytest.raises(PromptError, match="has no tokenizer"):
        ids_of(bare_lm, ["Hi"])
