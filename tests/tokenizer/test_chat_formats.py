"""Which chat format a checkpoint gets: its own, its family's where that is missing or fails, or none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dkv.errors import CheckpointError, PromptError
from dkv.tokenizer import load_tokenizer
from dkv.tokenizer.chat_formats import FORMATS, TURN_ENDS, format_for
from tests.support.vocabularies import DREAM, LLADA, LLADA_BASE, write_dream, write_llada


def test_the_vocabulary_tells_the_family() -> None:
    for name, tokens in (("llada", LLADA), ("dream", DREAM)):
        form = format_for(tokens)
        assert form is not None
        assert form.name == name
        assert [control for control in form.controls if control in TURN_ENDS] == [form.controls[-1]]
    assert format_for(LLADA_BASE) is None
    assert format_for(()) is None
    for form in FORMATS:
        for control in form.controls:
            assert format_for({*form.controls} - {control}) is None


@pytest.mark.parametrize("template", [None, "{{ raise_exception('no') }}", "{{ messages[0].text }}", "{{ 1 + 'a' }}"])
def test_a_template_that_is_missing_or_fails_is_replaced(template: str | None, tmp_path: Path) -> None:
    for family, write in (("llada", write_llada), ("dream", write_dream)):
        tokenizer = load_tokenizer(write(tmp_path / family, template))
        assert tokenizer is not None
        assert tokenizer.chat_format == family
        assert tokenizer.decode(tokenizer.encode_chat("Hi")).endswith(
            {"llada": "user\n\nHiassistant\n\n", "dream": "user\nHi\nassistant\n"}[family]
        )


def test_a_template_that_works_is_never_replaced(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(write_llada(tmp_path, "{{ messages[0].content }}"))
    assert tokenizer is not None
    assert (tokenizer.chat_format, tokenizer.encode_chat("Hi")) == ("own", [*b"Hi"])


def test_templates_are_read_as_transformers_reads_them(tmp_path: Path) -> None:
    """The line of a block leaves nothing, loops may end early, and the names of the files are there."""
    lines = (
        "{% for m in messages %}\n    {% if loop.index > 1 %}{% break %}{% endif %}\n{{ m.content }}{{ bos_token }}.\n"
    )
    directory = write_llada(tmp_path, lines + "{% endfor %}")
    tokenizer = load_tokenizer(directory)
    assert tokenizer is not None
    assert tokenizer.render([{"role": "user", "content": "Hi"}] * 2) == "Hi<|startoftext|>.\n"
    path = directory / "tokenizer_config.json"
    path.write_text(path.read_text(encoding="utf-8").replace('"bos_token"', '"other"'), encoding="utf-8")
    (directory / "special_tokens_map.json").write_text('{"bos_token": {"content": "<|eot_id|>"}}', encoding="utf-8")
    tokenizer = load_tokenizer(directory)
    assert tokenizer is not None
    assert tokenizer.render("Hi") == "Hi<|eot_id|>.\n"


@pytest.mark.parametrize("damage", ["{% for %}", "{{ " + "(" * 4000, "{{ " + "9" * 5000 + " }}", "{% unknown %}"])
def test_a_damaged_template_is_damage_and_not_replaced(damage: str, tmp_path: Path) -> None:
    """It is seen where a chat is asked for; token ids and plain texts need no template."""
    tokenizer = load_tokenizer(write_dream(tmp_path, damage))
    assert tokenizer is not None
    assert tokenizer.encode("Hi") == [*b"Hi"]
    assert tokenizer.chat_note is not None
    assert tokenizer.chat_note.startswith(f"{tmp_path}/tokenizer_config.json: the chat template is not usable")
    for ask in (tokenizer.encode_chat, tokenizer.render):
        with pytest.raises(CheckpointError, match=r"tokenizer_config.json: the chat template is not usable") as caught:
            ask("Hi")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "given",
    [
        3,
        {"a": 1},
        [3],
        [{"name": [], "template": "x"}],
        [{"name": "default"}],
        [{"name": "rag", "template": "x"}],
        {},
        [],
    ],
)
def test_what_is_no_default_template_is_said_unless_there_is_none(given: Any, tmp_path: Path) -> None:
    file = write_dream(tmp_path) / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "chat_template": given}), encoding="utf-8")
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer is not None
    assert tokenizer.encode("Hi") == [*b"Hi"]
    assert (tokenizer.chat_note is None) == (not given)
    if given == 3:
        with pytest.raises(CheckpointError, match=r"tokenizer_config.json: the chat template is not a text"):
            tokenizer.encode_chat("Hi")
    else:
        assert tokenizer.chat_format == "dream"


def test_a_template_beside_the_tokenizer_is_found_wherever_it_is(tmp_path: Path) -> None:
    write_dream(tmp_path)
    for name, content in (
        ("chat_template.json", json.dumps({"chat_template": "J{{ messages[0].content }}"})),
        ("additional_chat_templates/default.jinja", "A{{ messages[0].content }}"),
        ("chat_template.jinja", "F{{ messages[0].content }}"),
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content, encoding="utf-8")
        tokenizer = load_tokenizer(tmp_path)
        assert tokenizer is not None
        assert tokenizer.render("x") == content.split('"')[-2][0] + "x" if name.endswith("json") else content[0] + "x"


def test_a_replaced_template_is_logged_once_in_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    load_tokenizer(write_dream(tmp_path, "{{ raise_exception('a\nb') }}"))
    (record,) = caplog.records
    assert record.getMessage() == (
        f"{tmp_path}/tokenizer_config.json: the chat template fails on a plain message (a b); "
        "dkv's own format 'dream' takes its place"
    )


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    with (write_llada(tmp_path) / "tokenizer.json").open("r+b") as file:
        file.truncate(300 << 20)
    with pytest.raises(CheckpointError, match=r"tokenizer.json: "):
        load_tokenizer(tmp_path)


def test_a_base_model_takes_plain_text(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(write_llada(tmp_path, special=LLADA_BASE))
    assert tokenizer is not None
    assert not tokenizer.has_template
    assert tokenizer.chat_format is None
    assert tokenizer.turn_end_ids == ()
    assert tokenizer.encode("<|eot_id|>") == [*b"<|eot_id|>"]
    with pytest.raises(PromptError, match="chat=True: this checkpoint has no chat template; pass chat=False"):
        tokenizer.encode_chat("Hi")
    with pytest.raises(PromptError, match="a conversation needs a chat template and this checkpoint has none; give"):
        tokenizer.encode_chat([{"role": "user", "content": "Hi"}])


def test_surrounding_blanks_are_left_out_where_the_published_format_does(tmp_path: Path) -> None:
    headers, chatml = load_tokenizer(write_llada(tmp_path / "a")), load_tokenizer(write_dream(tmp_path / "b"))
    assert headers is not None
    assert chatml is not None
    assert "\n\nHi<|eot_id|>" in headers.render(" Hi\n")
    assert "user\n Hi\n<|im_end|>" in chatml.render(" Hi\n")
