"""Requests in lm-eval's form, without lm-eval: what reaches the engine, and what is refused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

import dkv
from dkv.errors import PromptError, SettingError
from dkv.lab.eval.answers import ANSWERS, Asker
from dkv.lab.eval.likelihood import Likelihood
from dkv.lab.eval.lm_harness import HarnessModel, question_of
from dkv.lab.eval.questions import Question, Setting
from dkv.storage.jsonl import Store

SETTING = Setting("confidence", "dkv-decode:refresh=3")


@dataclass
class Request:
    args: tuple[Any, ...]


def harness(lm: dkv.DiffusionLM, setting: Setting = SETTING, check_greedy: bool = True) -> HarnessModel:
    return HarnessModel(
        Asker(lm, Store(None, {}, ANSWERS), batch_size=4), setting, samples=6, check_greedy=check_greedy
    )


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, Question("c", 256, chat=False)),
        ({"max_gen_toks": 30, "until": ["\n", ""]}, Question("c", 30, ("\n",), chat=False)),
        ({"max_new_tokens": 9, "until": "Q:"}, Question("c", 9, ("Q:",), chat=False)),
        ({"do_sample": False, "temperature": 0.7, "top_p": 0.5}, Question("c", 256, chat=False)),
        ({"do_sample": True, "top_k": 5}, Question("c", 256, chat=False, temperature=1.0, top_k=5, draw=3)),
        ({"temperature": 0.5, "top_p": 0.9}, Question("c", 256, chat=False, temperature=0.5, top_p=0.9, draw=3)),
    ],
)
def test_generation_arguments(arguments: dict[str, Any], expected: Question) -> None:
    assert question_of("c", arguments, None, draw=3) == expected


def test_lengths_are_whole_blocks() -> None:
    assert question_of("c", {"max_gen_toks": 30}, 16).gen_length == 32


def test_unknown_arguments_are_refused() -> None:
    with pytest.raises(SettingError, match="generation_kwargs: unknown 'num_beams'; known: max_gen_toks"):
        question_of("c", {"num_beams": 4}, None)


def test_ragged_requests_come_back_in_order(lm: dkv.DiffusionLM) -> None:
    contexts = ["a long enough prompt", "b", "something in between", "c d", "e", "b"]
    requests = [Request((c, {"max_gen_toks": 8 if len(c) > 3 else 4, "until": ["q"]})) for c in contexts]
    expected = [
        lm.generate(c, gen_length=8 if len(c) > 3 else 4, stop="q", chat=False, seed=0, cache=SETTING.cache)[0].text
        for c in contexts
    ]
    assert harness(lm).generate_until(requests) == expected


def test_repeated_requests_are_draws(lm: dkv.DiffusionLM) -> None:
    request = Request(("a", {"max_gen_toks": 8, "do_sample": True, "temperature": 2.0}))
    first, second = harness(lm).generate_until([request, request])
    assert first != second
    assert harness(lm).generate_until([request, request]) == [first, second]


def test_conversations_are_encoded_as_conversations(lm: dkv.DiffusionLM) -> None:
    h = harness(lm)
    messages = [{"role": "user", "content": "say <|eot_id|>"}]
    context = h.apply_chat_template(messages)
    (text,) = h.generate_until([Request((context, {"max_gen_toks": 8}))])
    assert text == lm.generate([messages], gen_length=8, seed=0, cache=SETTING.cache)[0].text
    assert lm.tokenizer is not None
    assert h.pair_of(context, "yes").prompt == tuple(lm.tokenizer.encode_chat(messages))
    assert h.pair_of(context, "yes").response == tuple(lm.tokenizer.encode("yes"))
    with pytest.raises(SettingError, match="gen_prefix"):
        h.apply_chat_template(messages, add_generation_prompt=False)


def test_blanks_belong_to_the_continuation(lm: dkv.DiffusionLM) -> None:
    assert lm.tokenizer is not None
    pair = harness(lm).pair_of("one ", "two")
    assert pair.prompt == tuple(lm.tokenizer.encode("one"))
    assert pair.response == tuple(lm.tokenizer.encode(" two"))
    assert harness(lm).pair_of("", "two").prompt == ()


def test_likelihoods_are_the_estimator_s_and_kept(lm: dkv.DiffusionLM) -> None:
    h = harness(lm, check_greedy=False)
    requests = [Request(("one", " two")), Request(("", "xyz")), Request(("one", " two"))]
    found = h.loglikelihood(requests)
    pairs = [h.pair_of(*request.args) for request in requests]
    assert [value for value, _ in found] == pytest.approx(Likelihood(lm.model, 6).of(pairs), abs=1e-5)
    assert len(h.asker.store) == 2
    assert h.loglikelihood(requests[::-1]) == found[::-1]
    other = HarnessModel(h.asker, Setting("confidence", "none"), samples=6, check_greedy=False)
    assert other.loglikelihood(requests) == found
    assert len(h.asker.store) == 2


def test_greedy_is_what_the_engine_would_fill_in(lm: dkv.DiffusionLM) -> None:
    generated = lm.generate(list(b"one"), gen_length=4, seed=0, stop_at_eos=False, cache=SETTING.cache)[0]
    h = harness(lm)

    class Fixed(HarnessModel):
        def pair_of(self, context: str, continuation: str) -> Any:
            response = tuple(generated.token_ids) if continuation == "greedy" else (1, 2, 3, 4)
            return type(h.pair_of("a", "b"))(tuple(b"one"), response)

    fixed = Fixed(h.asker, SETTING, samples=6)
    assert [same for _, same in fixed.loglikelihood([Request(("", "greedy")), Request(("", "other"))])] == [True, False]


def test_refused(lm: dkv.DiffusionLM, bare_lm: dkv.DiffusionLM) -> None:
    with pytest.raises(SettingError, match="loglikelihood_rolling is not offered"):
        harness(lm).loglikelihood_rolling([Request(("text",))])
    with pytest.raises(SettingError, match=r"cfg_scale=0\.5: likelihoods know no guidance"):
        harness(lm, Setting("confidence", "none", cfg_scale=0.5)).loglikelihood([Request(("a", "b"))])
    with pytest.raises(PromptError, match="no tokenizer"):
        harness(bare_lm)
