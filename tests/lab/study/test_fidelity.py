"""Free and held runs of one prompt, which a conversation goes into whole."""

from __future__ import annotations

import pytest

import dkv
from dkv.lab.eval.questions import messages_of
from dkv.lab.study.context import Kit
from dkv.lab.study.fidelity import examples_of, follow, free
from dkv.tiny import Example


@pytest.fixture(scope="module")
def tiny() -> dkv.DiffusionLM:
    return Kit(device="cpu", dtype="float32").lm()


@pytest.fixture(scope="module")
def talk(tiny: dkv.DiffusionLM) -> Example:
    """The shortest conversation, to which the model knows the reply."""
    return examples_of(tiny, "dialogue", 1, 1)[0]


def test_a_conversation_is_asked_whole(tiny: dkv.DiffusionLM, talk: Example) -> None:
    (whole,) = tiny.generate(messages_of(talk.messages), gen_length=talk.gen_length, seed=0, cache="none")
    own, (told, held) = free(tiny, talk.asked, talk.gen_length, "none"), follow(tiny, talk.asked, talk.gen_length, [])
    assert own.prompt_ids == told.prompt_ids == whole.prompt_ids
    assert own.text == told.text == whole.text == talk.answer
    assert held == []


def test_examples_are_sized_by_the_whole_conversation(tiny: dkv.DiffusionLM, talk: Example) -> None:
    size = len(free(tiny, talk.asked, 1, "none").prompt_ids)
    assert talk in examples_of(tiny, "dialogue", size, 400)
    assert talk not in examples_of(tiny, "dialogue", size + 1, 400)
