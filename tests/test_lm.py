"""The front door: prompts in every form, chat templates, batches, seeds and streams."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import dkv
from dkv.caches import make_cache
from dkv.core.policy import Plan, Step
from dkv.decoders import RandomOrder, make_decoder
from dkv.errors import AuditError
from tests.support.checkpoints import (
    EOS,
    MASK,
    SPECIAL,
    TRIMMING_CHAT,
    dream_config_of,
    dream_tensors_of,
    write_checkpoint,
    write_tokenizer,
)
from tests.support.runs import POLICIES
from tests.support.vocabularies import write_dream

Q = {"gen_length": 6, "cache": "none", "seed": 0}


def ids(lm: dkv.DiffusionLM, prompts: object, **options: object) -> list[list[int]]:
    results = lm.generate(prompts, **{**Q, **options})  # type: ignore[arg-type]
    return [result.token_ids for result in results]


def test_every_form_of_a_prompt(lm: dkv.DiffusionLM) -> None:
    assert lm.tokenizer is not None
    coded = lm.tokenizer.encode("hi")
    one = ids(lm, "hi", chat=False)
    assert ids(lm, ["hi"], chat=False) == ids(lm, coded) == ids(lm, [coded]) == ids(lm, tuple(coded)) == one
    assert ids(lm, ["hi", coded, "ho"], chat=False) == [*one, *one, *ids(lm, "ho", chat=False)]


def test_a_text_goes_through_the_template_by_default(lm: dkv.DiffusionLM) -> None:
    assert lm.tokenizer is not None
    prompts = [r.prompt_ids for chat in (None, True, False) for r in lm.generate("hi", **Q, chat=chat)]  # type: ignore
    assert prompts[0] == prompts[1] == lm.tokenizer.encode_chat("hi")
    assert prompts[2] == lm.tokenizer.encode("hi")


TURNS = [
    {"role": "system", "content": "short"},
    {"role": "user", "content": "hi"},
    {"role": "assistant", "content": "ho"},
    {"role": "user", "content": "again"},
]


def test_a_list_of_messages_is_one_conversation(lm: dkv.DiffusionLM) -> None:
    assert lm.tokenizer is not None
    coded = lm.tokenizer.encode_chat(TURNS)
    for prompt in (TURNS, tuple(TURNS), [TURNS]):
        (result,) = lm.generate(prompt, **Q)  # type: ignore[arg-type]
        assert result.prompt_ids == coded
    several = lm.generate([TURNS, TURNS[1:2], "hi", coded], **Q)  # type: ignore[arg-type]
    hi = lm.tokenizer.encode_chat("hi")
    assert [result.prompt_ids for result in several] == [coded, hi, hi, coded]
    *_, last = lm.stream(TURNS, **Q)  # type: ignore[arg-type]
    assert last.generation is not None
    assert last.generation.token_ids == several[0].token_ids == several[3].token_ids


@pytest.mark.parametrize("index", range(4))
def test_no_message_can_inject_tokens(index: int, lm: dkv.DiffusionLM) -> None:
    spiked = [dict(message) for message in TURNS]
    spiked[index]["content"] = "<|eot_id|>"
    (one,), (other,) = lm.generate(TURNS, **Q), lm.generate(spiked, **Q)  # type: ignore[arg-type]
    assert [i for i in one.prompt_ids if i >= 256] == [i for i in other.prompt_ids if i >= 256]


@pytest.mark.parametrize(
    ("prompt", "chat", "line"),
    [
        (TURNS, False, "chat=False: a conversation needs the chat template; give a text, or leave chat out"),
        (TURNS[:3], None, "the last message has the role 'assistant'; end the conversation with the user's"),
        ([TURNS, TURNS[:1]], None, "the last message has the role 'system'"),
        ([TURNS[0], "hi"], None, "is neither a text nor a list of token ids or messages"),
        (TURNS[1], None, "is neither a text nor a list of token ids or messages"),
        ([{}], None, "prompt: message 1 has no keys; give 'role' and 'content'"),
    ],
)
def test_what_is_no_conversation(prompt: object, chat: bool | None, line: str, lm: dkv.DiffusionLM) -> None:
    with pytest.raises(dkv.PromptError, match=line) as caught:
        lm.generate(prompt, chat=chat, **Q)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_a_conversation_needs_a_tokenizer_and_a_template(bare_lm: dkv.DiffusionLM, tmp_path: Path) -> None:
    with pytest.raises(dkv.PromptError, match="this checkpoint has no tokenizer; give a list of token ids"):
        bare_lm.generate(TURNS)
    plain = dkv.load(write_tokenizer(write_checkpoint(tmp_path), None), device="cpu", dtype="float32")
    with pytest.raises(dkv.PromptError, match="a conversation needs a chat template and this checkpoint has none"):
        plain.generate(TURNS)


def test_a_dream_checkpoint_as_published(tmp_path: Path) -> None:
    """vocab.json and merges.txt, ids in generation_config.json alone; the answer ends at an end of turn too."""
    config = dream_config_of(**dict.fromkeys(("mask_token_id", "eos_token_id", "pad_token_id")))
    special = {"<|endoftext|>": 257, "<|im_start|>": 258, "<|im_end|>": 260, "<|mask|>": MASK}
    directory = write_checkpoint(tmp_path, config, dream_tensors_of(config))
    write_dream(directory, special=special)
    (directory / "generation_config.json").write_text('{"mask_token_id": null, "eos_token_id": 257}', encoding="utf-8")
    dream = dkv.load(directory, device="cpu", dtype="float32", audit=True)
    facts = dream.model.config
    assert (facts.family, facts.mask_id, facts.eos_ids, facts.pad_id) == ("dream", MASK, (257, 260), 257)
    (result,) = dream.generate(
        [{"role": "system", "content": ""}, {"role": "user", "content": "Hi"}], gen_length=6, seed=0
    )
    assert bytes(i for i in result.prompt_ids if i < 256) == b"system\n\nuser\nHi\nassistant\n"
    assert [i for i in result.prompt_ids if i >= 256] == [258, 260, 258, 260, 258]


def test_without_a_template_a_text_is_taken_as_it_is(tmp_path: Path) -> None:
    plain = dkv.load(write_tokenizer(write_checkpoint(tmp_path), None), device="cpu", dtype="float32")
    assert plain.tokenizer is not None
    assert plain.generate("hi", **Q)[0].prompt_ids == plain.tokenizer.encode("hi")  # type: ignore[arg-type]
    with pytest.raises(dkv.PromptError, match="no chat template"):
        plain.generate("hi", chat=True)


@pytest.mark.parametrize("chat", [True, False])
def test_a_text_cannot_inject_tokens(chat: bool, lm: dkv.DiffusionLM, tmp_path: Path) -> None:
    text = f" a{SPECIAL[5]}b{SPECIAL[1]}{SPECIAL[4]}\n"
    trimming = dkv.load(write_tokenizer(write_checkpoint(tmp_path), TRIMMING_CHAT), device="cpu", dtype="float32")
    for model in (lm, trimming):
        (result,) = model.generate(text, chat=chat, **Q)  # type: ignore[arg-type]
        assert MASK not in result.prompt_ids
        assert EOS not in result.prompt_ids
        assert len([i for i in result.prompt_ids if i >= 256]) == (6 if chat else 0)


def test_ids_may_hold_any_token_and_stay_as_they_are(lm: dkv.DiffusionLM) -> None:
    """Token ids are the caller's own: mask and end-of-text ids in a prompt are part of it."""
    (result,) = lm.generate([[MASK, EOS, 5, MASK]], stop_at_eos=False, trace=True, **Q)  # type: ignore[arg-type]
    assert result.prompt_ids == [MASK, EOS, 5, MASK]
    assert MASK not in result.token_ids
    assert result.trace is not None
    assert sorted(p for step in result.trace for p, _ in step) == list(range(6))


@settings(max_examples=10)
@given(
    prompts=st.lists(st.lists(st.integers(0, 255), min_size=1, max_size=5), min_size=1, max_size=5),
    batch_size=st.integers(1, 6),
    cache=st.sampled_from(POLICIES),
    decoder=st.sampled_from(["confidence", "random"]),
    temperature=st.sampled_from([0.0, 0.7]),
)
def test_batch_size_changes_nothing(
    bare_lm: dkv.DiffusionLM, prompts: list[list[int]], batch_size: int, cache: str, decoder: str, temperature: float
) -> None:
    seeds = list(range(len(prompts)))
    options = {"cache": cache, "decoder": decoder, "temperature": temperature, "seed": seeds}
    assert ids(bare_lm, prompts, **options) == ids(bare_lm, prompts, batch_size=batch_size, **options)


def test_a_given_order_is_by_prompt_in_every_batch(bare_lm: dkv.DiffusionLM) -> None:
    order = RandomOrder([[[1, 3, 2], [4, 3, 2], [2, 1, 3]]])
    for batch_size in (1, 2, 3):
        results = bare_lm.generate(
            [[7], [7, 7], [7]],
            gen_length=3,
            decoder=order,
            batch_size=batch_size,
            trace=True,
            stop_at_eos=False,
            seed=0,
        )
        orders = [[step[0][0] for step in result.trace or []] for result in results]
        assert orders == [[0, 2, 1], [2, 1, 0], [1, 0, 2]]


WARM: dict[str, Any] = {"temperature": 3.0, "gen_length": 12, "stop_at_eos": False, "cache": "none"}


def test_one_seed_gives_each_prompt_the_next(bare_lm: dkv.DiffusionLM) -> None:
    results = bare_lm.generate([[1]] * 4, seed=3, **WARM)
    assert [result.seed for result in results] == [3, 4, 5, 6]
    assert [result.settings.seed for result in results] == [3] * 4
    assert len({tuple(result.token_ids) for result in results}) == 4
    assert [result.token_ids for result in results] == ids(bare_lm, [[1]] * 4, seed=[3, 4, 5, 6], **WARM)


def test_the_first_prompt_has_the_seed_itself_in_every_call(bare_lm: dkv.DiffusionLM) -> None:
    (alone,) = ids(bare_lm, [1], seed=3, **WARM)
    assert ids(bare_lm, [[1], [1]], seed=3, **WARM)[0] == alone
    *_, last = bare_lm.stream([1], seed=3, **WARM)
    assert last.generation is not None
    assert last.generation.token_ids == alone


def test_without_a_seed_each_prompt_draws_its_own(bare_lm: dkv.DiffusionLM) -> None:
    results = bare_lm.generate([[1]] * 6, **WARM)
    assert len({result.seed for result in results}) == 6
    assert len({tuple(result.token_ids) for result in results}) == 6


def test_a_prompt_of_mask_ids_alone_has_a_whole_answer(bare_lm: dkv.DiffusionLM) -> None:
    """The corner of docs/engine.md: the canvas is alike everywhere, and rounding alone tells positions apart."""
    for prompts in ([[MASK] * 3], [[MASK] * 3, [1, 2], [MASK]]):
        for result in bare_lm.generate(prompts, gen_length=6, stop_at_eos=False, seed=0):
            assert len(result.token_ids) == 6
            assert MASK not in result.token_ids


@pytest.mark.parametrize("seed", [None, 7])
def test_a_results_seed_alone_makes_it_again(bare_lm: dkv.DiffusionLM, seed: int | None) -> None:
    for result in bare_lm.generate([[1], [2, 3], [1]], seed=seed, batch_size=2, decoder="random", **WARM):
        (again,) = bare_lm.generate([result.prompt_ids], seed=result.seed, decoder="random", **WARM)
        assert (again.token_ids, again.seed) == (result.token_ids, result.seed)


def test_a_seed_that_leaves_no_room_for_the_last_prompt(bare_lm: dkv.DiffusionLM) -> None:
    most = (1 << 62) - 2
    assert [result.seed for result in bare_lm.generate([[1]] * 2, gen_length=1, seed=most)] == [most, most + 1]
    with pytest.raises(dkv.SettingError, match=rf"seed={most} plus 2, for 3 prompts, must be below 2\*\*62"):
        bare_lm.generate([[1]] * 3, gen_length=1, seed=most)


def test_objects_do_for_specs(bare_lm: dkv.DiffusionLM) -> None:
    spec = ids(bare_lm, [1, 2], cache="dkv-decode:refresh=3", decoder="random:seed=2")
    assert spec == ids(bare_lm, [1, 2], cache=make_cache("dkv-decode:refresh=3"), decoder=make_decoder("random:seed=2"))


def test_the_default_block_and_steps_are_the_response(bare_lm: dkv.DiffusionLM) -> None:
    (default,) = bare_lm.generate([[1]], gen_length=6)
    assert (default.settings.block_length, default.settings.steps) == (6, 6)
    assert ids(bare_lm, [1]) == ids(bare_lm, [1], block_length=6, steps=6)


def test_filters_reach_the_sampler(bare_lm: dkv.DiffusionLM) -> None:
    cold = ids(bare_lm, [1, 2])
    assert ids(bare_lm, [1, 2], temperature=3.0) != cold
    assert ids(bare_lm, [1, 2], temperature=3.0, top_k=1) == cold
    assert ids(bare_lm, [1, 2], temperature=3.0, top_p=1e-9) == cold


def test_the_cache_dtype_reaches_the_memory(bare_lm: dkv.DiffusionLM) -> None:
    """Keys and values in bfloat16 are another, slightly worse run: confidences move, and little."""
    exact, coarse = (list(bare_lm.stream([1, 2, 3], gen_length=12, seed=0, cache_dtype=d)) for d in (None, "bfloat16"))
    assert exact[0].token_ids
    assert coarse[-1].generation is not None
    assert coarse[-1].generation.settings.cache_dtype == "bfloat16"


def test_progress_goes_to_standard_error(bare_lm: dkv.DiffusionLM, capsys: pytest.CaptureFixture[str]) -> None:
    with_bar = ids(bare_lm, [[1], [2]], progress=True)
    assert capsys.readouterr().out == ""
    assert with_bar == ids(bare_lm, [[1], [2]])
    assert capsys.readouterr().err == ""


@dataclass(frozen=True)
class Forgetful:
    def plan(self, step: Step) -> Plan:
        return Plan(step.masked)


def test_what_a_model_shows_names_it(bare_lm: dkv.DiffusionLM) -> None:
    shown = repr(bare_lm)
    assert bare_lm.name in shown
    assert "llada" in shown
    assert "float32" in shown


def test_an_audited_model_audits(bare: Path, bare_lm: dkv.DiffusionLM) -> None:
    with pytest.raises(AuditError, match="sequence 0 would read slot 0"):
        bare_lm.generate([[1, 2]], gen_length=4, cache=Forgetful())
    quiet = dkv.load(bare, device="cpu", dtype="float32")
    assert len(quiet.generate([[1, 2]], gen_length=4, cache=Forgetful())[0].token_ids) == 4


def test_bfloat16_runs_under_every_policy(bare: Path) -> None:
    lm = dkv.load(bare, device="cpu", dtype="bfloat16", audit=True)
    assert lm.model.dtype == torch.bfloat16
    for cache in POLICIES:
        for result in lm.generate(
            [[1, 2], [3]], gen_length=6, cache=cache, decoder="random", seed=0, stop_at_eos=False
        ):
            assert len(result.token_ids) == 6
            assert MASK not in result.token_ids


def test_auto_is_a_dtype_and_a_device(bare: Path) -> None:
    lm = dkv.load(bare)
    assert lm.model.dtype in (torch.float32, torch.bfloat16)
    assert lm.name == str(bare)


def test_a_stream_can_be_left(bare_lm: dkv.DiffusionLM) -> None:
    stream = bare_lm.stream([1], gen_length=6)
    assert next(stream).step == 0
    del stream
    assert len(ids(bare_lm, [1])[0]) == 6
