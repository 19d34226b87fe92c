"""docs/architecture.md is the code's: its import table is the tests' own, and the files that it names exist."""

from __future__ import annotations

import re

import pytest

from tests.support.import_table import EVERYBODY, TABLE
from tests.support.pages import ROOT, paths_in, resolved, rows_under

PAGE = ROOT / "docs" / "architecture.md"


def spans(cell: str) -> tuple[str, ...]:
    """The code spans of a cell."""
    return tuple(re.findall(r"`([^`]+)`", cell))


def entries(cell: str) -> tuple[str, ...]:
    """What a cell lets a package import."""
    return ("",) if cell == "everything" else spans(cell)


def test_the_page_has_the_table_that_tests_hold_the_code_to() -> None:
    shown = {spans(name)[0]: entries(allowed) for name, _, allowed in rows_under(PAGE, "Who imports whom")}
    assert shown == {name or "__init__": allowed for name, allowed in TABLE.items()}


def test_the_page_says_what_everybody_may_import() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert f"each may import `{EVERYBODY[0]}`, `{EVERYBODY[1]}` and `{EVERYBODY[2]}`." in " ".join(text.split())


@pytest.mark.parametrize("path", sorted(paths_in(PAGE.read_text(encoding="utf-8"))))
def test_what_the_page_names_exists(path: str) -> None:
    if "NAME" not in path:
        assert resolved(path) is not None


def test_every_question_is_answered_by_a_file() -> None:
    questions = rows_under(PAGE, "Where is X?")
    assert len(questions) >= 10
    assert all(any(resolved(path) for path in spans(answer)) for _, answer in questions)


def test_every_new_thing_has_a_place() -> None:
    places = {thing: where for thing, where, _ in rows_under(PAGE, "Where does X go?")}
    assert set(places) == {
        "cache", "decoder", "architecture", "logits processor", "option", "server route", "study", "kernel",
        "checkpoint format",
    }  # fmt: skip
    assert all(any(resolved(path) for path in spans(where)) for where in places.values())


def test_no_word_is_explained_twice() -> None:
    words = [word for word, _ in rows_under(PAGE, "Vocabulary")]
    assert len(set(words)) == len(words)


def test_the_words_in_code_are_names_of_the_code() -> None:
    """Each stands in the source, as more than a part of another name."""
    source = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "src" / "dkv").rglob("*.py"))
    names = [name for word, _ in rows_under(PAGE, "Vocabulary") for name in spans(word)]
    assert len(names) >= 20
    assert [name for name in names if not re.search(rf"\b{name}\b", source)] == []
