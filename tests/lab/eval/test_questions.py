"""A conversation as data sets keep it, in the forms that prompts take."""

from __future__ import annotations

from pathlib import Path

import dkv
from dkv.lab.eval.questions import as_prompt, messages_of
from dkv.tokenizer import load_tokenizer
from tests.support.checkpoints import write_checkpoint, write_tokenizer

SAID = (("user", "a"), ("assistant", "b"), ("user", "c"))
SPOKEN = "user: a\n\nassistant: b\n\nuser: c\n\nassistant:"


def test_a_text_stays_as_it_is(lm: dkv.DiffusionLM) -> None:
    assert [as_prompt("a", lm.tokenizer, chat) for chat in (None, True, False)] == ["a"] * 3


def test_a_conversation_goes_through_the_template_where_there_is_one(lm: dkv.DiffusionLM, tmp_path: Path) -> None:
    plain = load_tokenizer(write_tokenizer(write_checkpoint(tmp_path / "m"), template=None))
    assert plain is not None
    messages = messages_of(SAID)
    assert messages[1] == {"role": "assistant", "content": "b"}
    assert as_prompt(SAID, lm.tokenizer) == as_prompt(SAID, plain, chat=True) == messages
    assert as_prompt(SAID, lm.tokenizer, chat=False) == as_prompt(SAID, plain) == SPOKEN
