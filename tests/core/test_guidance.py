"""Guidance: guide rows mirror their sequences with the prompt masked, and push the logits."""

from __future__ import annotations

import torch

import dkv
from dkv.core.canvas import lay_out
from dkv.core.guidance import Guidance
from dkv.models import Transformer
from tests.support.checkpoints import EOS, MASK
from tests.support.runs import play, start


def test_guides_are_rows_of_their_own() -> None:
    canvas = lay_out([[1, 2], [3]], 2, 9, [5, 6], guided=True)
    assert canvas.tokens.tolist() == [[1, 2, 9, 9], [9, 9, 9, 9], [3, 9, 9, 9], [9, 9, 9, 9]]
    assert canvas.masked.tolist() == [[False, False, True, True]] * 2 + [[False, True, True, False]] * 2
    assert canvas.unconditional_of is not None
    assert canvas.unconditional_of.tolist() == [-1, 0, -1, 2]
    assert canvas.request.tolist() == [0, 0, 1, 1]
    assert canvas.seed.tolist() == [5, 5, 6, 6]
    assert Guidance(canvas, 1.0).partner.tolist() == [1, 1, 3, 3]
    assert canvas.mirror(torch.tensor([10, 11, 12, 13])).tolist() == [10, 10, 12, 12]


def test_without_guides_nothing_is_mirrored() -> None:
    canvas = lay_out([[1, 2], [3]], 2, 9, [5, 6])
    assert canvas.unconditional_of is None
    assert canvas.is_unconditional is None
    assert canvas.mirror(canvas.prompt) is canvas.prompt


def test_logits_are_pushed_away_from_those_without_the_prompt(model: Transformer) -> None:
    prompt = [4, 5, 6]
    guided = play(start(model, [prompt], 4, cfg_scale=0.7))[0].predictions
    plain, blind = (play(start(model, [p], 4))[0].predictions for p in (prompt, [MASK] * 3))
    assert guided is not None
    assert plain is not None
    assert blind is not None
    torch.testing.assert_close(guided.logits, plain.logits + 0.7 * (plain.logits - blind.logits))


def test_a_guide_ends_with_its_sequence(model: Transformer) -> None:
    """Early, where the text has ended."""
    state = start(model, [[4, 5], [6]], 4, cfg_scale=1.0, stop_ids=tuple(range(model.config.vocab)))
    play(state)
    assert state.sequences.done.all()
    tokens, length = state.canvas.tokens, state.canvas.length
    for row in (0, 2):
        own, mirror = (t[state.canvas.prompt[row] : length[row]] for t in (tokens[row], tokens[row + 1]))
        assert own.equal(mirror)


def test_rows_of_the_guide_count(bare_lm: dkv.DiffusionLM) -> None:
    result = bare_lm.generate([1, 2, 3], gen_length=4, cache="none", cfg_scale=1.0, stop_at_eos=False)[0]
    assert (result.stats.forwards, result.stats.rows_computed, result.stats.rows_total) == (4, 56, 56)
    cached = bare_lm.generate([1, 2, 3], gen_length=4, cache="dkv-prefill", cfg_scale=1.0, stop_at_eos=False)[0]
    assert cached.stats.rows_computed == 2 * (7 + 3 * 4)


def test_a_stop_text_finishes_both(lm: dkv.DiffusionLM) -> None:
    free = lm.generate("hello", gen_length=12, cfg_scale=1.0, cache="none", seed=1, stop_at_eos=False)[0]
    text = lm.tokenizer.decode(free.token_ids) if lm.tokenizer else ""
    visible = next(c for c in text if c.isascii() and c.isprintable())
    cut = lm.generate("hello", gen_length=12, cfg_scale=1.0, cache="none", seed=1, stop=visible)[0]
    assert cut.text == text[: text.index(visible)] or EOS in free.token_ids
