"""The tasks of the embedded models: examples with a right answer each, and whether a text answers one.

The generators that draw examples are `recipes.tiny.tasks`; a release has their frozen evaluation sets only.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dkv.storage.sandbox import passes
from dkv.tiny.extraction import program_of
from dkv.tiny.numbers import marked_number

__all__ = ["TASKS", "Example", "Task"]


@dataclass(frozen=True)
class Example:
    """One prompt with a checkable answer."""

    task: str
    prompt: str
    answer: str
    gen_length: int  # tokens of a response canvas
    key: str  # the essential content without names and wording: no two examples of a set share it
    tests: str = ""  # Python assertions, for tasks that are checked by running the answer
    history: tuple[tuple[str, str], ...] = ()  # (role, text) turns before the prompt

    @property
    def messages(self) -> tuple[tuple[str, str], ...]:
        """The whole conversation that is to be answered, as (role, text)."""
        return (*self.history, ("user", self.prompt))

    @property
    def asked(self) -> str | tuple[tuple[str, str], ...]:
        """What a model is to be asked: the prompt, and where turns went before it, the whole conversation."""
        return self.messages if self.history else self.prompt

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Example:
        """An example from its JSONL line. Raises TypeError for other fields."""
        return cls(**(fields | {"history": tuple((role, text) for role, text in fields.get("history", ()))}))


@dataclass(frozen=True)
class Task:
    """A task by name. check: whether a text answers an example of it."""

    name: str
    check: Callable[[Example, str], bool]


def _same_lines(example: Example, text: str) -> bool:
    """Every line exactly, blanks at its ends aside."""
    lines, wanted = ([line.strip() for line in t.strip().splitlines()] for t in (text, example.answer))
    return lines == wanted


def _same_last_line(example: Example, text: str) -> bool:
    """The last line that is not blank."""
    last, wanted = (
        next((line for line in reversed(t.splitlines()) if line.strip()), "") for t in (text, example.answer)
    )
    return last.strip() == wanted.strip()


def _same_number(example: Example, text: str) -> bool:
    """The number at the mark `####`."""
    found = marked_number(text)
    return found is not None and found == marked_number(example.answer)


def _same_table(example: Example, text: str) -> bool:
    """The same format, JSON or CSV, the same rows, the same columns in the same order."""
    same_format = text.strip().startswith("[") == example.answer.startswith("[")
    rows, wanted = _rows(text), _rows(example.answer)
    if not same_format or rows is None or wanted is None:
        return False
    return [list(row.items()) for row in rows] == [list(row.items()) for row in wanted]


def _rows(text: str) -> list[dict[str, str]] | None:
    """The rows of a JSON array or of a CSV text; None if it is neither."""
    text = text.strip()
    try:
        if text.startswith("["):
            return [{str(k): str(v) for k, v in row.items()} for row in json.loads(text)]
        return [dict(row) for row in csv.DictReader(io.StringIO(text), strict=True)]
    except (ValueError, AttributeError, TypeError, csv.Error):
        return None


def _passes_tests(example: Example, text: str) -> bool:
    """The function passes its tests in the sandbox; a completion is put under the signature of its prompt."""
    if "return" not in text:
        return False
    head = example.prompt.split("\n", 1)[1] if "\n" in example.prompt else ""
    name = re.search(r"(\w+)\(", example.prompt)
    return passes(program_of(head, "" if name is None else name[1], text), example.tests)


TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task("code", _passes_tests),
        Task("convert", _same_table),
        Task("dialogue", _same_lines),
        Task("lists", _same_last_line),
        Task("lookup", _same_lines),
        Task("spanish", _same_lines),
        Task("words", _same_number),
    )
}
"""The tasks that the models were trained for, by name."""
