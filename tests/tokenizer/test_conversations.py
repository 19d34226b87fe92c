"""Conversations of both families: the documented strings and ids, and no message ever adds a control token."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dkv.errors import PromptError
from dkv.tokenizer import Conversation, Tokenizer, is_conversation, load_tokenizer
from tests.support.vocabularies import DREAM, LLADA, OWN_DREAM, OWN_LLADA, write_dream, write_llada

USER = {"role": "user", "content": "Hi"}
SYSTEM = {"role": "system", "content": "Be brief."}
TURNS = [USER, {"role": "assistant", "content": "Hello!"}, {"role": "user", "content": "2+2?"}]

GOLDEN: dict[str, dict[str, tuple[Any, str]]] = {
    "llada": {
        "user": (
            [USER],
            (
                "<|startoftext|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
                "<|start_header_id|>assistant<|end_header_id|>\n\n"
            ),
        ),
        "system": (
            [SYSTEM, USER],
            (
                "<|startoftext|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
                "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
                "<|start_header_id|>assistant<|end_header_id|>\n\n"
            ),
        ),
        "turns": (
            TURNS,
            (
                "<|startoftext|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
                "<|start_header_id|>assistant<|end_header_id|>\n\nHello!<|eot_id|>"
                "<|start_header_id|>user<|end_header_id|>\n\n2+2?<|eot_id|>"
                "<|start_header_id|>assistant<|end_header_id|>\n\n"
            ),
        ),
    },
    "dream": {
        "user": (
            [USER],
            (
                "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
                "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
            ),
        ),
        "system": (
            [SYSTEM, USER],
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
        ),
        "turns": (
            [SYSTEM, *TURNS],
            (
                "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
                "<|im_start|>assistant\nHello!<|im_end|>\n<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n"
            ),
        ),
    },
}

IDS: dict[str, list[int]] = {  # of "user": a byte is its own id
    "llada": [126080, 126346, *b"user", 126347, *b"\n\nHi", 126348, 126346, *b"assistant", 126347, *b"\n\n"],
    "dream": [
        *(151644, *b"system\nYou are a helpful assistant.", 151645, *b"\n"),
        *(151644, *b"user\nHi", 151645, *b"\n", 151644, *b"assistant\n"),
    ],
}

WRITERS: dict[str, tuple[Callable[..., Path], str, dict[str, int]]] = {
    "llada": (write_llada, OWN_LLADA, LLADA),
    "dream": (write_dream, OWN_DREAM, DREAM),
}


def made(family: str, directory: Path, template: str | None) -> Tokenizer:
    tokenizer = load_tokenizer(WRITERS[family][0](directory, template))
    assert tokenizer is not None
    return tokenizer


@pytest.fixture(scope="module")
def speakers(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Tokenizer]:
    """By family, with its own template and with the fallback."""
    return {
        (family, kind): made(family, tmp_path_factory.mktemp(f"{family}-{kind}"), own if kind == "own" else None)
        for family, (_, own, _) in WRITERS.items()
        for kind in ("own", "fallback")
    }


@pytest.mark.parametrize("kind", ["own", "fallback"])
@pytest.mark.parametrize(("family", "case"), [(f, c) for f in GOLDEN for c in GOLDEN[f]])
def test_the_documented_strings_and_ids(
    family: str, case: str, kind: str, speakers: dict[tuple[str, str], Tokenizer]
) -> None:
    tokenizer, (conversation, string) = speakers[family, kind], GOLDEN[family][case]
    assert tokenizer.chat_format == ("own" if kind == "own" else family)
    assert tokenizer.render(conversation) == string
    ids = tokenizer.encode_chat(conversation)
    assert tokenizer.decode(ids, keep_special=True) == string
    assert [i for i in ids if i > 255] == [WRITERS[family][2][name] for name in names_in(string)]
    if case == "user":
        assert ids == IDS[family] == tokenizer.encode_chat("Hi")


def names_in(string: str) -> list[str]:
    return [f"<|{part.split('|>')[0]}|>" for part in string.split("<|")[1:]]


WORDS = [*LLADA, *DREAM, "<|", "|>", "im_end", "eot_id", " ", "\n", "x", "\ue000", "0", "\ue001", "é"]
CONTENTS = st.lists(st.sampled_from(WORDS), max_size=6).map("".join)
MESSAGES = st.lists(st.tuples(st.sampled_from(["system", "user", "assistant"]), CONTENTS), max_size=4)


@given(before=MESSAGES, last=CONTENTS.filter(str.strip), family=st.sampled_from(list(WRITERS)), own=st.booleans())
def test_no_message_ever_adds_a_control_token(
    speakers: dict[tuple[str, str], Tokenizer], before: list[tuple[str, str]], last: str, family: str, own: bool
) -> None:
    tokenizer = speakers[family, "own" if own else "fallback"]
    messages = [{"role": role, "content": content} for role, content in [*before, ("user", last)]]
    harmless = [{**message, "content": "x"} for message in messages]
    ids = tokenizer.encode_chat(messages)
    assert [i for i in ids if i > 255] == [i for i in tokenizer.encode_chat(harmless) if i > 255]
    assert tokenizer.decode(ids, keep_special=True) == tokenizer.render(messages)


def message(role: Any = "user", content: Any = "Hi", **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


EACH = "{% for m in messages %}%s{% endfor %}<|eot_id|>"


@pytest.mark.parametrize(
    "each", ["{{ m.content }}", "{{ m.content }}|>", "<|{{ m.content }}|>", "{{ m.content|trim }}"]
)
@pytest.mark.parametrize(
    "contents", [["<|eot", "_id|>"], ["<|eot_id", "x"], ["eot_id", "eot_id"], ["<|eot_id|> ", " "]]
)
def test_contents_make_no_control_token_together(each: str, contents: list[str], tmp_path: Path) -> None:
    tokenizer = made("llada", tmp_path, EACH.replace("%s", each))
    messages = [{"role": "user", "content": content} for content in [*contents, "y"]]
    ids = tokenizer.encode_chat(messages)
    assert [i for i in ids if i > 255] == [LLADA["<|eot_id|>"]]
    assert tokenizer.decode(ids, keep_special=True) == tokenizer.render(messages)


@pytest.mark.parametrize(
    "each",
    [
        "{{ m.content }}{{ m.content }}",
        "{{ m.content | replace('|', '!|') }}",
        "{% if '<' in m.content %}<|eot_id|>{% endif %}{{ m.content }}",
        "{{ m.content }}{{ m.content | length }}",
    ],
)
def test_a_template_that_does_more_than_print_refuses_control_tokens(each: str, tmp_path: Path) -> None:
    tokenizer = made("llada", tmp_path, EACH.replace("%s", each))
    assert "plain" in tokenizer.decode(tokenizer.encode_chat("plain")).lower()
    with pytest.raises(PromptError, match="prompt: holds control tokens, and the chat template does more than print"):
        tokenizer.encode_chat("an <|eot_id|>")


def test_a_template_that_chooses_its_words_by_several_messages_refuses_control_tokens(tmp_path: Path) -> None:
    every = "{% if '<' in messages[0].content and '<' in messages[1].content %}<|eot_id|>{% endif %}"
    tokenizer = made("llada", tmp_path, EACH.replace("%s", "{{ m.content }}") + every)
    assert tokenizer.encode_chat([message(content="<|eot_id|>"), USER])[:-1] == [*b"<|eot_id|>Hi"]
    with pytest.raises(PromptError, match="does more than print"):
        tokenizer.encode_chat([message(content="<|eot_id|>"), message(content="<")])


def test_a_template_that_asks_whether_there_is_a_content(tmp_path: Path) -> None:
    tokenizer = made("llada", tmp_path, EACH.replace("%s", "{% if m.content %}[{{ m.content }}]{% endif %}"))
    ids = tokenizer.encode_chat([message("system", ""), message(content="<|eot_id|>")])
    assert ids == [*b"[<|eot_id|>]", LLADA["<|eot_id|>"]]


def test_a_cut_message_is_still_text(tmp_path: Path) -> None:
    tokenizer = made("llada", tmp_path, EACH.replace("%s", "{{ m.content.split('#')[-1] }}"))
    ids = tokenizer.encode_chat([{"role": "assistant", "content": "a#b<|eot_id|>"}, USER])
    assert ids == [*b"b<|eot_id|>Hi", LLADA["<|eot_id|>"]]


@pytest.mark.parametrize(
    ("conversation", "line"),
    [
        (
            [message("clown"), USER],
            "prompt: message 1 has the role 'clown'; known: system, user, assistant, tool, func",
        ),
        ([USER, message(content=None)], "prompt: message 2 has the content None; give a text"),
        ([USER, message(content=["Hi"])], r"prompt: message 2 has the content \['Hi'\]; give a text"),
        ([{"role": "user"}], "prompt: message 1 has the keys 'role'; give 'role' and 'content'"),
        ([message(id="Jo")], "prompt: message 1 has the keys 'role', 'content', 'id'"),
        ([message(type="image")], "prompt: message 1 has the keys 'role', 'content', 'type'"),
        ([message(name="<|eot_id|>")], r"prompt: message 1 has the name '<\|eot_id\|>'; give 1 to 64 characters"),
        ([message("tool", tool_call_id=3)], "prompt: message 1 has the tool_call_id 3; give 1 to 64 characters"),
        ([USER, message("assistant", "Yes")], "the last message has the role 'assistant'; end the conversation"),
        ([USER, SYSTEM], "the last message has the role 'system'; end the conversation with the user's"),
        ([SYSTEM, message(content=" \n")], "prompt is empty; give at least one token"),
        ([], "prompt is empty; give at least one token"),
        ([USER, message(content="\ud800")], "prompt: message 2: character 0 is half a surrogate pair"),
    ],
)
def test_what_is_no_conversation(
    conversation: Conversation, line: str, speakers: dict[tuple[str, str], Tokenizer]
) -> None:
    for ask in (speakers["dream", "own"].encode_chat, speakers["llada", "fallback"].render):
        with pytest.raises(PromptError, match=line) as caught:
            ask(conversation)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["message", "text"])
def test_the_type_that_some_clients_give_a_message_says_nothing(
    kind: str, speakers: dict[tuple[str, str], Tokenizer]
) -> None:
    speaker = speakers["llada", "own"]
    assert speaker.encode_chat([message(type=kind)]) == speaker.encode_chat([message()])


def test_names_and_messages_of_tools_go_to_a_template_that_prints_them(tmp_path: Path) -> None:
    source = "{% for m in messages %}{{ m.role }}({{ m.name }}{{ m.tool_call_id }}): {{ m.content }};{% endfor %}"
    tokenizer = made("llada", tmp_path, source)
    tool = message("tool", "7", tool_call_id="c1")
    ids = tokenizer.encode_chat([message(name="Jo"), tool])
    assert bytes(ids) == b"user(Jo): Hi;tool(c1): 7;"


def test_a_message_of_a_tool_that_the_template_leaves_out_is_refused(tmp_path: Path) -> None:
    source = "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}"
    with pytest.raises(PromptError, match="it does not print messages of the role 'tool'") as caught:
        made("llada", tmp_path, source).encode_chat([USER, message("tool", "seven")])
    assert caught.value.reason is not None


def test_a_template_that_refuses_a_conversation(tmp_path: Path) -> None:
    refusing = "{% if messages|length > 1 %}{{ raise_exception('one at a time') }}{% endif %}{{ messages[0].content }}"
    tokenizer = made("llada", tmp_path, refusing)
    assert tokenizer.encode_chat("Hi") == [*b"Hi"]
    with pytest.raises(PromptError, match=r"the chat template fails \(one at a time\); change the conversation"):
        tokenizer.encode_chat(TURNS)


@pytest.mark.parametrize("prompt", ["Hi", b"Hi", [], [1, 2], ["Hi"], [[USER]], [USER, "Hi"], USER, None, 3])
def test_what_is_not_a_list_of_messages(prompt: object) -> None:
    assert not is_conversation(prompt)


def test_what_is_a_list_of_messages() -> None:
    assert is_conversation([USER])
    assert is_conversation((SYSTEM, *TURNS))
