"""The same files in transformers: the same strings and ids, whichever release is installed; never its remote code."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from dkv.errors import PromptError
from dkv.tokenizer import Tokenizer, load_tokenizer
from dkv.tokenizer.chat import ChatTemplate
from dkv.tokenizer.tokenizer_files import settings_of, variables_of
from tests.support.vocabularies import DREAM, LLADA, OWN_DREAM, OWN_LLADA, train_dream, write_llada

transformers = pytest.importorskip("transformers")

TEXTS = [
    "",
    "Hello there, world!",
    "it's IT'S we'll 3.14 12345",
    "  two  blanks \n\n\n and\tlines\r\n \n",
    "naïve – 12 €, e\u0301, 日本語 🙂",
    "def f(x):\n    return x != 0  # <|not_special|>\n",
    "...!?\n\n--a",
]
CORPUS = [*TEXTS * 3, "hello world it's we'll return naïve 12 日本語 lines and blanks "]
SYSTEM = {"role": "system", "content": "Be brief."}
CONVERSATIONS = [
    [{"role": "user", "content": "Hello there"}],
    [{"role": "user", "content": "\n\n leading and trailing \n"}],
    [SYSTEM, {"role": "user", "content": "it's 日本語"}],
    [
        SYSTEM,
        {"role": "user", "content": "12 lines"},
        {"role": "assistant", "content": "\nreturn x\n"},
        {"role": "user", "content": "and?"},
    ],
]


def both(directory: Path) -> tuple[Tokenizer, Any]:
    ours = load_tokenizer(directory)
    assert ours is not None
    return ours, transformers.AutoTokenizer.from_pretrained(str(directory))


@pytest.fixture(scope="module", params=["llada", "dream"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Tokenizer, Any]:
    """A tokenizer of each family as dkv and as transformers read it."""
    directory = tmp_path_factory.mktemp(request.param)
    return both(write_llada(directory, OWN_LLADA) if request.param == "llada" else train_dream(directory, CORPUS))


def test_texts_have_the_same_ids(pair: tuple[Tokenizer, Any]) -> None:
    ours, theirs = pair
    for text in TEXTS:
        assert ours.encode(text) == theirs(text)["input_ids"]
        assert ours.decode(ours.encode(text)) == theirs.decode(ours.encode(text), clean_up_tokenization_spaces=False)


def test_conversations_have_the_same_strings_and_ids(pair: tuple[Tokenizer, Any]) -> None:
    ours, theirs = pair
    for conversation in CONVERSATIONS:
        string = theirs.apply_chat_template(conversation, add_generation_prompt=True, tokenize=False)
        assert ours.render(conversation) == string
        assert ours.encode_chat(conversation) == theirs(string, add_special_tokens=False)["input_ids"]
        assert ours.encode_chat(conversation) == theirs.apply_chat_template(
            conversation, add_generation_prompt=True, return_dict=False
        )


TEMPLATES = {
    "today": "{{ strftime_now('%d %B %Y') }}{% for m in messages %}{{ m.content }}{% endfor %}",
    "generation": (
        "{% for m in messages %}{% generation %}{{ m.role }}: {{ m.content }}\n{% endgeneration %}\n{% endfor %}"
    ),
    "generation has a scope": (
        "{% set x = 1 %}{% generation %}{% set x = 2 %}{{ x }}{% endgeneration %}{{ x }}{{ messages[0].content }}"
    ),
    "tojson": "{% for m in messages %}{{ m | tojson }}{% endfor %}",
    "tojson of markup": (
        "{{ {'z': '<b>&\\'é日\\u2028</b>', 'a': [1, none, true, 1.5]} | tojson }}{{ messages[0].content }}"
    ),
    "tojson with arguments": (
        "{{ messages | tojson(indent=2) }}{{ messages | tojson(sort_keys=true, separators=(',', ':')) }}"
        "{{ messages | tojson(ensure_ascii=true) }}"
    ),
    "loop controls": (
        "{% for m in messages %}{% if loop.index == 2 %}{% continue %}{% endif %}{% if loop.index == 4 %}{% break %}"
        "{% endif %}{{ m.content }}{% endfor %}"
    ),
    "blocks on lines": (
        "{% for m in messages %}\n    {% if true %}\n  {{ m.content }}\n    {%- endif %}\n{% endfor %}\n\nend\n"
    ),
    "special tokens": "{{ bos_token }}|{{ eos_token }}|{{ pad_token }}|{{ unk_token }}|{{ sep_token }}|{{ cls_token }}|"
    "{{ mask_token }}|{{ messages[0].content }}",
    "what is asked": (
        "{% if tools is none and documents is none %}none{% endif %}{% if tools is defined %}defined{% endif %}"
        "{% if add_generation_prompt %}prompt{% endif %}{{ messages[0].content }}"
    ),
    "namespaces and macros": (
        "{% set ns = namespace(n=0, text='') %}"
        "{% macro turn(m, more=1) %}[{{ m.role }}]{{ m.content | trim }}{% endmacro %}{% for m in messages %}"
        "{% set ns.n = ns.n + 1 %}{% set ns.text = ns.text ~ turn(m) %}{% endfor %}{{ ns.n }}{{ ns.text }}"
    ),
    "dict and range": "{% for k, v in dict(a=1, b=2).items() %}{{ k }}{{ v }}{% endfor %}{{ range(3) | list }}"
    "{{ messages | map(attribute='content') | join(', ') }}{{ messages[::-1][0].content }}",
    "call blocks": "{% macro w() %}<{{ caller() }}>{% endmacro %}{% call w() %}{{ messages[0].content }}{% endcall %}",
    "text methods": (
        "{{ messages[0].content.split(' ')[0].upper() }}{{ '%s-%03d' | format('a', 7) }}{{ messages[-1].content }}"
    ),
    "refusal": "{{ raise_exception('only one at a time: ' ~ messages | length) }}",
    "failure": "{{ messages[0].content + 1 }}",
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_templates_render_as_in_transformers(name: str, tmp_path: Path) -> None:
    """The same strings, or a failure for the same reason, in this process as in one of its own."""
    ours, theirs = both(write_llada(tmp_path, TEMPLATES[name]))
    template = ChatTemplate(TEMPLATES[name], variables_of(tmp_path, settings_of(tmp_path)))
    for conversation in CONVERSATIONS:
        try:
            string = theirs.apply_chat_template(conversation, add_generation_prompt=True, tokenize=False)
        except Exception as error:
            with pytest.raises(PromptError, match=re.escape(str(error))):
                template.render(conversation)
            continue
        assert template.render(conversation) == string
        assert ours.chat_format == "own"
        assert ours.chat_note is None
        assert ours.render(conversation) == string


@pytest.mark.parametrize(
    "places",
    [
        ("tokenizer_config.json",),
        ("tokenizer_config.json", "chat_template.jinja"),
        ("named",),
        ("named", "chat_template.jinja"),
        ("chat_template.jinja", "additional"),
    ],
)
def test_the_same_template_is_found(places: tuple[str, ...], tmp_path: Path) -> None:
    ours = "%s: {{ messages[0].content }}"
    write_llada(tmp_path, ours % "config" if "tokenizer_config.json" in places else None)
    if "named" in places:
        file = tmp_path / "tokenizer_config.json"
        named = [{"name": name, "template": ours % name} for name in ("tool_use", "default")]
        file.write_text(json.dumps({**json.loads(file.read_text()), "chat_template": named}), encoding="utf-8")
    if "chat_template.jinja" in places:
        (tmp_path / "chat_template.jinja").write_text(ours % "file", encoding="utf-8")
    if "additional" in places:
        (tmp_path / "additional_chat_templates").mkdir()
        (tmp_path / "additional_chat_templates" / "rag.jinja").write_text(ours % "rag", encoding="utf-8")
    tokenizer, theirs = both(tmp_path)
    string = theirs.apply_chat_template(CONVERSATIONS[0], add_generation_prompt=True, tokenize=False)
    assert tokenizer.render(CONVERSATIONS[0]) == string


def test_control_tokens_have_the_same_ids(pair: tuple[Tokenizer, Any]) -> None:
    ours, theirs = pair
    names = set(ours.added)
    assert names in (set(LLADA), set(DREAM))
    assert ours.added == {name: theirs.convert_tokens_to_ids(name) for name in names}


def test_the_dream_vocabulary_was_learnt(tmp_path: Path) -> None:
    """Else the comparison would only compare bytes."""
    ours, theirs = both(train_dream(tmp_path, CORPUS))
    assert len(ours.encode("hello world")) < len("hello world") / 2
    assert theirs.chat_template == OWN_DREAM
