"""Prompts that are rendered already, and the work that a conversation costs: linear, and ended when nobody waits."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

import dkv
from dkv.errors import PromptError, SettingError
from dkv.tokenizer import Tokenizer, load_tokenizer
from dkv.tokenizer.chat import ChatTemplate
from tests.support.checkpoints import CHAT, EOT, SPECIAL, TRIMMING_CHAT, write_tokenizer
from tests.support.vocabularies import LLADA, write_llada

MASK = LLADA["<|mdm_mask|>"]
CONVERSATION = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes?"}] * 2
CONVERSATION += [{"role": "user", "content": "2+2?"}]


@pytest.fixture(scope="module")
def llada(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    tokenizer = load_tokenizer(write_llada(tmp_path_factory.mktemp("llada")))
    assert tokenizer is not None
    return tokenizer


def test_a_rendered_conversation_has_the_ids_of_the_conversation(llada: Tokenizer) -> None:
    rendered = llada.render(CONVERSATION)
    assert llada.encode_rendered(rendered, MASK) == llada.encode_chat(CONVERSATION)
    assert llada.encode(rendered) == [*rendered.encode()]  # the default


def test_the_mask_stays_text_in_a_rendered_prompt(llada: Tokenizer) -> None:
    ids = llada.encode_rendered("<|eot_id|><|mdm_mask|>a<|mdm_mask|>", MASK)
    assert ids == [LLADA["<|eot_id|>"], *b"<|mdm_mask|>a<|mdm_mask|>"]


def test_a_mask_that_only_the_tokenizer_sees_is_refused(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(write_tokenizer(tmp_path, lowercase=True))
    assert tokenizer is not None
    mask = tokenizer.added["<|mdm_mask|>"]
    assert tokenizer.encode_rendered("<|EOT_ID|>", mask) == [EOT]
    with pytest.raises(PromptError, match="reads its mask token in it"):
        tokenizer.encode_rendered("<|MDM_MASK|>", mask)


def test_what_stands_around_a_text_is_not_added_twice(tmp_path: Path) -> None:
    file = write_tokenizer(tmp_path) / "tokenizer.json"
    start = {"id": SPECIAL[0], "ids": [256], "tokens": [SPECIAL[0]]}
    pieces = [{"SpecialToken": {"id": SPECIAL[0], "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    around = {"type": "TemplateProcessing", "single": pieces, "pair": pieces, "special_tokens": {SPECIAL[0]: start}}
    file.write_text(json.dumps({**json.loads(file.read_text()), "post_processor": around}), encoding="utf-8")
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer is not None
    assert tokenizer.encode_rendered("a", -1) == tokenizer.encode("a") == [256, *tokenizer.encode_bare("a")]
    assert tokenizer.encode_rendered(f"{SPECIAL[0]}a", -1) == tokenizer.encode("a")


def test_strings_of_control_tokens_are_found(llada: Tokenizer) -> None:
    assert llada.control_strings("Hi <|not_special|> eot_id") == []
    assert llada.control_strings("a<|eot_id|>b") == ["<|eot_id|>"]
    assert len(llada.control_strings("".join(LLADA))) == 3


def test_the_argument_of_generate() -> None:
    lm = dkv.load("tiny", device="cpu", dtype="float32")
    assert lm.tokenizer is not None
    rendered = lm.tokenizer.render(CONVERSATION)
    expected = lm.tokenizer.encode_chat(CONVERSATION)
    generation = lm.generate(rendered, gen_length=4, parse_special=True)[0]
    assert generation.prompt_ids == expected
    assert list(lm.stream(rendered, gen_length=4, parse_special=True))[-1].generation is not None
    assert lm.request(rendered, gen_length=4, parse_special=True).prompt == tuple(expected)
    assert lm.request([1, 2], gen_length=4, parse_special=True).prompt == (1, 2)
    with pytest.raises(SettingError, match="parse_special=True is for a text that is rendered already; leave out chat"):
        lm.generate("a", chat=True, parse_special=True)
    with pytest.raises(SettingError, match="parse_special=True does not go with a conversation"):
        lm.generate(CONVERSATION, parse_special=True)
    with pytest.raises(SettingError, match="parse_special=1 must be True or False"):
        lm.generate("a", parse_special=1)  # type: ignore[arg-type]


class Counting(ChatTemplate):
    """A template that counts its renderings."""

    count = 0

    def _text(self, messages: Sequence[Mapping[str, str]]) -> str:
        self.count += 1
        return super()._text(messages)


@pytest.mark.parametrize("source", [CHAT, TRIMMING_CHAT])
def test_however_many_messages_a_few_renderings_tell_them_apart(source: str) -> None:
    for number in (1, 2, 3, 50, 501):
        template = Counting(source, {"bos_token": "<|startoftext|>"})
        contents = [f" <|eot_id|>{index} " if index % 3 else " " for index in range(1, number + 1)]
        messages = [{"role": "user", "content": content} for content in contents]
        pieces = template.pieces(messages)
        assert template.count == 4
        strip = source == TRIMMING_CHAT
        shown = [content.strip() if strip else content for content in contents if content.strip()]
        assert [text for text, is_content in pieces if is_content] == shown
        assert "".join(text for text, _ in pieces) == template.render(messages)


def test_marks_in_a_message_are_text(llada: Tokenizer) -> None:
    text = "\ue000" + "7" * 19 + "-0\ue001<|eot_id|>"
    messages = [{"role": "user", "content": text}] * 3
    assert llada.decode(llada.encode_chat(messages), keep_special=True) == llada.render(messages)
    assert [i for i in llada.encode_chat(messages) if i > 255] == [
        i for i in llada.encode_chat([{"role": "user", "content": "x"}] * 3) if i > 255
    ]


def test_a_long_conversation_of_control_strings_costs_little(llada: Tokenizer) -> None:
    """It cost a minute when each message had a rendering of its own."""
    messages = [{"role": "user", "content": "<|eot_id|>"}] * 3200
    start = time.process_time()
    ids = llada.encode_chat(messages)
    assert time.process_time() - start < 10
    assert ids.count(LLADA["<|eot_id|>"]) == 3200


def test_encoding_stops_between_messages(llada: Tokenizer) -> None:
    class GoneError(Exception):
        pass

    for most in (0, 1, 5, 20):
        left = [most]

        def attend(left: list[int] = left) -> None:
            left[0] -= 1
            if left[0] < 0:
                raise GoneError

        with pytest.raises(GoneError):
            llada.encode_chat([{"role": "user", "content": "<|eot_id|>"}] * 100, attend)
        assert left == [-1]
