"""Prompts have the length that was asked for."""

from __future__ import annotations

import pytest

import dkv
from dkv.lab.bench.sized_prompts import prompts_of
from dkv.tiny import TASKS, load_eval


@pytest.mark.parametrize("length", [1, 30, 700])
def test_exact_lengths_and_different_texts(length: int, lm: dkv.DiffusionLM) -> None:
    prompts = prompts_of(lm, length, 3, seed=0)
    assert [len(prompt) for prompt in prompts] == [length] * 3
    assert prompts == prompts_of(lm, length, 3, seed=0)
    if length > 1:
        assert len({tuple(prompt) for prompt in prompts}) == 3


def test_the_last_problem_is_whole(lm: dkv.DiffusionLM) -> None:
    assert lm.tokenizer is not None
    (task, *_) = TASKS
    last = lm.tokenizer.encode_chat(load_eval(task)[0].prompt)
    (prompt,) = prompts_of(lm, len(last) + 50, 1, seed=0)
    assert prompt[-len(last) :] == last


def test_without_a_tokenizer_ids_mean_nothing(bare_lm: dkv.DiffusionLM) -> None:
    config = bare_lm.model.config
    (prompt,) = prompts_of(bare_lm, 5000, 1, seed=0)
    assert len(prompt) == 5000
    assert set(prompt).isdisjoint({config.mask_id, config.pad_id, *config.eos_ids})
    assert len(set(prompt)) > 200
    assert max(prompt) < config.vocab
