"""What strangers' templates may take: time, memory and output end in one line; nothing else of theirs is different."""

from __future__ import annotations

import copy
import os
import pickle
import signal
import threading
from pathlib import Path

import pytest

from dkv.errors import CheckpointError, DkvError, PromptError
from dkv.tokenizer import Conversation, load_tokenizer
from dkv.tokenizer.chat import ChatTemplate
from dkv.tokenizer.plain_templates import is_plain
from dkv.tokenizer.template_process import TemplateProcess
from dkv.tokenizer.template_sandbox import environment
from tests.support.checkpoints import CHAT, TRIMMING_CHAT
from tests.support.vocabularies import OWN_DREAM, OWN_LLADA, write_llada

USER: Conversation = [{"role": "user", "content": "Hi"}]
LOOPS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
DOUBLING = "{% set n = namespace(x='a') %}{% for i in range(80) %}{% set n.x = n.x ~ n.x %}{% endfor %}"
HEAVY = {
    "nested ranges": LOOPS,
    "repetition": "{{ 'a' * 10**9 }}",
    "center": "{{ 'a' | center(10**10) }}",
    "ljust": "{{ 'a'.ljust(10**10) }}",
    "zfill": "{{ 'a'.zfill(10**10) }}",
    "format width": "{{ '{:>9999999999}'.format(1) }}",
    "percent width": "{{ '%9999999999d' % 1 }}",
    "format filter": "{{ '%9999999999d' | format(1) }}",
    "doubling a text": DOUBLING,
    "doubling a list": "{% set n = namespace(x=[1]) %}{% for i in range(60) %}{% set n.x = n.x + n.x %}{% endfor %}",
    "sharing a list": (
        "{% set n = namespace(x=[1]) %}{% for i in range(60) %}{% set n.x = [n.x, n.x] %}{% endfor %}{{ n.x | tojson }}"
    ),
    "replace": "{{ ('a' * 10**5) | replace('a', 'b' * 10**5) }}",
    "join": "{{ ('a' * 10**5) | join('b' * 10**5) }}",
    "indent": "{{ 'a\n\n\na' | indent(10**10, true, true) }}",
    "tojson": "{{ messages | tojson(indent=10**10) }}",
    "a list": "{{ range(99999) | list * 10**6 }}",
    "power": "{{ 10**(10**10) }}",
    "shouting": "{% for i in range(10**5 - 1) %}{{ 'a' * 10**4 }}{% endfor %}",
    "many words of its own": "{{ 'a b ' * 10**6 }}",
    "recursion": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "size": "a" * 20_000_000,
}


@pytest.mark.parametrize("name", HEAVY)
def test_a_heavy_template_ends_in_one_line_where_a_chat_is_asked_for(name: str, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(write_llada(tmp_path, HEAVY[name]))
    assert tokenizer is not None
    assert tokenizer.encode("Hi") == [*b"Hi"]
    assert tokenizer.chat_note is not None
    with pytest.raises(CheckpointError, match=r"the chat template is not usable \(.+\); pass chat=False") as caught:
        tokenizer.encode_chat("Hi")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


ODD = {
    "huge number": "{{ " + "9" * 5000 + " }}",
    "huge number printed": "{{ 10**5000 }}",
    "lone surrogate": "{{ '\ud800' }}",
    "lone surrogate outside": "\ud800",
    "unhashable": "{{ {[]: 1} }}",
    "no loader": "{% include 'x' %}",
    "bad argument": "{{ 'a' | center([]) }}",
    "no such filter": "{{ 'a' | nothing }}",
    "long refusal": "{{ raise_exception('a\n' * 10**6) }}",
    "deep parentheses": "{{ " + "(" * 9000 + " }}",
    "deep sum": "{{ " + " + ".join(["'a'"] * 9000) + " }}",
    "deep blocks": "{% if 1 %}" * 3000 + "{% endif %}" * 3000,
    "division": "{{ 1 / 0 }}",
    "missing": "{{ nothing.at.all }}",
    "not a text": "{{ raise_exception({}) }}",
}


@pytest.mark.parametrize("name", ODD)
def test_an_odd_template_ends_in_one_line(name: str) -> None:
    template = ChatTemplate(ODD[name], {})
    reason = template.trial()
    assert reason is not None
    assert "\n" not in reason
    with pytest.raises(DkvError) as caught:
        template.render(USER)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.__class__.__base__.__subclasses__() }}",
        "{{ raise_exception.__globals__ }}",
        "{{ strftime_now.__globals__['sys'].modules }}",
        "{{ lipsum.__globals__.os.system('true') }}",
        "{{ cycler.__init__.__globals__ }}",
        "{{ namespace.__init__.__globals__ }}",
        "{{ '{0.__class__}'.format(1) }}",
        "{{ ('{0.__class__.__mro__}' | format(1)) ~ ''.__doc__ }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update(a=1) }}",
        "{{ messages | attr('__class__') }}",
    ],
)
def test_there_is_no_way_out_of_the_sandbox(source: str) -> None:
    for template in (source, "{% set n = namespace() %}" + source):
        try:
            text = ChatTemplate(template, {}).render(USER)
        except PromptError:
            continue
        assert text in ("", "{0.__class__.__mro__}")


@pytest.mark.parametrize("source", [CHAT, TRIMMING_CHAT, OWN_LLADA, OWN_DREAM])
def test_templates_that_loop_and_print_need_no_process(source: str) -> None:
    assert is_plain(source, environment())


@pytest.mark.parametrize("name", [name for name in HEAVY if name != "recursion"])
def test_a_heavy_template_is_not_plain(name: str) -> None:
    assert not is_plain(HEAVY[name], environment())


@pytest.mark.parametrize(
    "source",
    [
        "{% set raise_exception = 'a'.ljust %}{{ raise_exception(10**10) }}",
        "{% for raise_exception in ['a'.ljust] %}{{ raise_exception(10**10) }}{% endfor %}",
        "{{ messages[0].content.ljust(9) }}",
        "{% for a in messages %}{% for b in messages %}{{ b.content }}{% endfor %}{% endfor %}",
        "{% for a in messages %}{% if a %}{% for b in messages %}x{% endfor %}{% endif %}{% endfor %}",
        "{% set a = messages[0].content %}" + "{% set a = a + a %}" * 30 + "{{ a }}",
        "{% set a = messages[0].content %}" + "{% set a = a ~ a ~ a ~ a %}" * 20,
        "{{ " + " ~ ".join(["messages[0].content"] * 100) + " }}",
        "{% if " + " ~ ".join(["messages[0].content"] * 100) + " %}x{% endif %}",
        "{% for m in messages recursive %}{{ loop(messages) }}{% endfor %}",
        "{% set n = namespace(a='') %}",
        "{% macro f() %}{% endmacro %}",
        "{% set x %}a{% endset %}",
        "{{ 2 ** 9 }}",
        "{{ 'a' * 9 }}",
        "{{ messages | join }}",
        "{{ 99999999999 }}",
        "{% filter upper %}a{% endfilter %}",
        " " * 9000,
    ],
)
def test_what_could_grow_is_not_plain(source: str) -> None:
    assert not is_plain(source, environment())


def test_plain_templates_and_others_render_alike() -> None:
    for source in (CHAT, TRIMMING_CHAT, OWN_LLADA, OWN_DREAM):
        process = TemplateProcess(source, {"bos_token": "<|startoftext|>"})
        messages = [{"role": "system", "content": " né\n"}, {"role": "user", "content": "\ue000 日本 <b>&'\" "}]
        try:
            assert process.render(messages) == ChatTemplate(source, {"bos_token": "<|startoftext|>"}).render(messages)
        finally:
            process.close()


IF_ASKED = (
    "{% set n = namespace() %}{% if 'loop' in messages[0].content %}" + LOOPS + "{% endif %}{{ messages[0].content }}"
)


def test_a_conversation_that_takes_too_long_harms_no_other() -> None:
    process = TemplateProcess(IF_ASKED, {})
    with pytest.raises(CheckpointError, match="it takes more than 2 s of processor time or 512 MB of memory"):
        process.render([{"role": "user", "content": "loop"}])
    assert process.render(USER) == "Hi"
    process.close()


def test_a_process_that_is_killed_is_started_again() -> None:
    process = TemplateProcess(IF_ASKED, {})
    assert process.render(USER) == "Hi"
    child = process._process
    assert child is not None
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    assert process.render(USER) == "Hi"
    process.close()


def test_threads_share_a_process() -> None:
    process, found = TemplateProcess(IF_ASKED, {}), list[bool]()

    def ask(number: int) -> None:
        for turn in range(20):
            text = f"{number} {turn} " * 50
            found.append(process.render([{"role": "user", "content": text}]) == text)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 80
    process.close()


def test_a_process_ends_with_its_template() -> None:
    process = TemplateProcess(IF_ASKED, {})
    process.render(USER)
    child = process._process
    assert child is not None
    del process
    assert child.poll() is not None


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_copy_and_a_pickle_render_too() -> None:
    template = ChatTemplate(IF_ASKED, {})
    for other in (copy.deepcopy(template), pickle.loads(pickle.dumps(template))):
        assert other.render(USER) == template.render(USER) == "Hi"
    broken = pickle.loads(pickle.dumps(ChatTemplate.unusable("no")))
    with pytest.raises(CheckpointError, match="no"):
        broken.render(USER)


def test_what_a_template_prints_is_bounded_by_the_conversation() -> None:
    """A long conversation may print much, a short one no more than a template has words."""
    times = ChatTemplate("{% for m in messages %}{{ m.content | replace('a', 'aaaa') }}{% endfor %}", {})
    content = "a" * 200_000
    assert len(times.render([{"role": "user", "content": content}])) == 4 * len(content)
    many: Conversation = [{"role": "user", "content": "a"}] * 8000
    assert len(times.render(many)) == 4 * len(many)
    with pytest.raises(CheckpointError, match=r"prints more than 30[0-9]{4} characters"):
        ChatTemplate("{{ messages[0].content * 10**6 }}", {}).render(USER)
