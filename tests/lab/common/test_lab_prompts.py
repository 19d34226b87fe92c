"""Prompts from files, the embedded ones, those of an exact length, and drawn ids."""

from __future__ import annotations

from pathlib import Path

import pytest

import dkv
from dkv.errors import SettingError
from dkv.lab.common.lab_prompts import default_prompts, read_prompts, sized_prompts
from dkv.tiny import TASKS, load_eval
from tests.support.checkpoints import write_checkpoint, write_tokenizer


@pytest.mark.parametrize("length", [1, 30, 700])
def test_exact_lengths_and_different_texts(length: int, lm: dkv.DiffusionLM) -> None:
    prompts = sized_prompts(lm, length, 3, seed=0)
    assert [len(prompt) for prompt in prompts] == [length] * 3
    assert prompts == sized_prompts(lm, length, 3, seed=0)
    if length > 1:
        assert len({tuple(prompt) for prompt in prompts}) == 3


def test_the_last_problem_is_whole(lm: dkv.DiffusionLM) -> None:
    assert lm.tokenizer is not None
    (task, *_) = TASKS
    last = lm.tokenizer.encode_chat(load_eval(task)[0].prompt)
    (prompt,) = sized_prompts(lm, len(last) + 50, 1, seed=0)
    assert prompt[-len(last) :] == last


def test_without_a_tokenizer_ids_mean_nothing(bare_lm: dkv.DiffusionLM) -> None:
    config = bare_lm.model.config
    (prompt,) = sized_prompts(bare_lm, 5000, 1, seed=0)
    assert len(prompt) == 5000
    assert set(prompt).isdisjoint({config.mask_id, config.pad_id, *config.eos_ids})
    assert len(set(prompt)) > 200
    assert max(prompt) < config.vocab


def test_a_text_file_holds_a_prompt_a_line(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("one\n\n  two\nthree\n", encoding="utf-8")
    assert read_prompts(path, 2) == ["one", "  two"]


def test_jsonl_holds_texts_ids_and_conversations(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    message = '[{"role": "user", "content": "Hi"}]'
    path.write_text(f'{{"prompt": "one"}}\n{{"prompt": [1, 2]}}\n{{"prompt": {message}}}\n', encoding="utf-8")
    assert read_prompts(path, 9) == ["one", [1, 2], [{"role": "user", "content": "Hi"}]]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b"{", "line 1 is not JSON"),
        ("a.jsonl", b'{"prompt": "x"}\n{"text": "y"}', 'line 2 has no "prompt"'),
        ("a.jsonl", b'{"prompt": 3}', 'line 1 has no "prompt"'),
        ("a.jsonl", b'"x"', 'line 1 has no "prompt"'),
        ("a.txt", b"\n \n", "holds no prompts"),
        ("a.txt", b"\xff\xfe", "is not UTF-8"),
    ],
)
def test_other_files_are_refused_in_one_line(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(SettingError) as caught:
        read_prompts(path, 9)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="No such file"):
        read_prompts(tmp_path / "none.txt", 9)


def test_without_a_template_a_conversation_is_plain_text(tmp_path: Path) -> None:
    plain = dkv.load(write_tokenizer(write_checkpoint(tmp_path / "m"), template=None), device="cpu")
    talk = next(one for one in default_prompts(plain, len(TASKS), 8) if one.endswith("\n\nassistant:"))
    assert talk.startswith("user: ")
    assert talk.count("\n\nuser: ") >= 1


def test_defaults_fit_the_model(lm: dkv.DiffusionLM, bare_lm: dkv.DiffusionLM) -> None:
    asked = default_prompts(lm, len(TASKS), 8)
    assert len(asked) == len(TASKS)
    talks = [one for one in asked if not isinstance(one, str)]
    assert [[message["role"] for message in talk][-2:] for talk in talks] == [["assistant", "user"]]  # one dialogue
    spoken = default_prompts(lm, len(TASKS), 8, chat=False)
    assert sum(one.endswith("\n\nassistant:") for one in spoken) == 1  # the dialogue, as a text
    ids = default_prompts(bare_lm, 5, 8)
    assert ids == default_prompts(bare_lm, 5, 8)
    assert len({len(one) for one in ids}) > 1
    assert all(len(one) + 8 <= bare_lm.model.config.context for one in ids)
