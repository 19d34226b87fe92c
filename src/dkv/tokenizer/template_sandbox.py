"""The environment that chat templates run in, the same in meaning as transformers', and a loop that renders with it.

Run as a script, this file is the process of `template_process.py`: it imports jinja2 and the standard library only,
reads one JSON object a line from standard input and answers each with one. Its memory and the processor time of each
answer are limited; beyond them it answers with an error, or dies.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import Environment, Template, TemplateError, TemplateSyntaxError, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.runtime import Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment

__all__ = ["MEMORY", "MOST_OUTPUT", "PROCESSOR_SECONDS", "environment", "one_line", "rendered"]

MOST_OUTPUT = 8_000_000
"""Characters that a template may print, whatever the conversation; `_most_output` has the bound for each."""
_OWN_WORDS, _TIMES, _WORDS_A_MESSAGE = 300_000, 8, 1_000
MEMORY = 512 << 20
"""Bytes of address space, where the system can limit it."""
PROCESSOR_SECONDS = 2.0
"""For one answer."""
_LONGEST_MESSAGE = 300


def environment() -> Environment:
    """What transformers gives a template: sandboxed, with loop controls, `generation` blocks, `tojson` without HTML
    escapes, `raise_exception` and `strftime_now`."""
    made = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, "jinja2.ext.loopcontrols"]
    )
    made.filters["tojson"] = _to_json
    made.globals["raise_exception"] = _refuse
    made.globals["strftime_now"] = _strftime_now
    return made


def rendered(template: Template, messages: Sequence[Mapping[str, Any]], names: Mapping[str, Any]) -> str:
    """The conversation as one string. Raises whatever the template raises, and MemoryError where it prints too much."""
    pieces, size, most = list[str](), 0, _most_output(messages)
    variables = {**names, "messages": messages, "add_generation_prompt": True, "tools": None, "documents": None}
    for piece in template.generate(variables):
        pieces.append(piece)
        size += len(piece)
        if size > most:
            raise MemoryError(f"it prints more than {most} characters")
    text = "".join(pieces)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("it prints half a surrogate pair") from None
    return text


def _most_output(messages: Sequence[Mapping[str, Any]]) -> int:
    """Characters that a template may print for a conversation.

    What is printed is tokenized in the process of the engine, at some microseconds and some hundred bytes a character:
    so a template of a few words must not make millions of a short message.
    """
    given = sum(len(value) for message in messages for value in message.values() if isinstance(value, str))
    return min(MOST_OUTPUT, _OWN_WORDS + _TIMES * given + _WORDS_A_MESSAGE * len(messages))


def one_line(error: BaseException) -> str:
    """An error's message, short and without line breaks."""
    if isinstance(error, MemoryError):
        return str(error) or f"it needs more than {MEMORY >> 20} MB of memory"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    try:
        message = str(error)[: 4 * _LONGEST_MESSAGE].encode("utf-8", "backslashreplace").decode()
    except Exception:
        message = ""
    message = " ".join(message.split())[:_LONGEST_MESSAGE]
    return message or type(error).__name__


class _Generation(Extension):
    """`{% generation %}...{% endgeneration %}` marks what a model is trained on; here it prints its content."""

    tags = {"generation"}  # noqa: RUF012 - as jinja2 declares it

    def parse(self, parser: Parser) -> nodes.Node:
        """A block with a scope of its own."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("content_of"), [], [], body).set_lineno(line)

    def content_of(self, caller: Macro) -> str:
        """What stands in the block."""
        return caller()


def _to_json(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _strftime_now(format: str) -> str:  # noqa: A002 - as transformers calls it
    return datetime.now().strftime(format)


def _refuse(message: object) -> NoReturn:
    """What templates call to refuse a conversation."""
    raise TemplateError(str(message))


def _answer(template: Template, names: Mapping[str, Any], line: str) -> dict[str, str]:
    try:
        return {"text": rendered(template, json.loads(line), names)}
    except Exception as error:
        return {"limit" if isinstance(error, (MemoryError, RecursionError)) else "error": one_line(error)}


def _compiled(source: str) -> tuple[Template | None, dict[str, str]]:
    try:
        return environment().from_string(source), {"ready": ""}
    except Exception as error:
        where = f"line {error.lineno}: " if isinstance(error, TemplateSyntaxError) else ""
        return None, {"unusable": where + one_line(error)}


def _limit_memory() -> None:
    with suppress(ImportError, OSError, ValueError):  # not every system has such limits
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))


def _limit_time(seconds: float) -> None:
    """Let the system end this process after so much more processor time; 0: no limit."""
    import signal

    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_PROF, seconds)


def _write(answer: dict[str, str]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def _main() -> None:
    _limit_memory()
    first = json.loads(sys.stdin.readline())
    _limit_time(PROCESSOR_SECONDS)
    template, answer = _compiled(first["source"])
    _write(answer)
    if template is None:
        return
    _limit_time(0)
    for line in sys.stdin:
        _limit_time(PROCESSOR_SECONDS)
        _write(_answer(template, first["names"], line))
        _limit_time(0)


if __name__ == "__main__":
    _main()
