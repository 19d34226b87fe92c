"""Final numbers of worked answers: GSM8K's form, a last line `#### 42`, as models write it."""

from __future__ import annotations

import re
from decimal import Decimal

__all__ = ["final_number", "marked_number"]

_MINUS = "\\-\u2010\u2011\u2012\u2013\u2212\ufe63\uff0d"
_COMMA = ",\uff0c\u066c"
_SPACE = "\u00a0\u2007\u2009\u202f'\u2019"  # spaces that do not break, and apostrophes: they group digits too
_POINT = ".\uff0e\u066b"
_DIGITS = (
    rf"(?:\d{{1,3}}(?:[{_COMMA}]\d{{2,3}})*[{_COMMA}]\d{{3}}(?!\d)|\d{{1,3}}(?:[{_SPACE}]\d{{3}})+(?!\d)|\d+)"
    rf"(?:[{_POINT}]\d+)?|[{_POINT}]\d+"
)
_MONEY = r"[$\u20ac\u00a3\u00a5\uff04]?"
_NUMBER = re.compile(rf"((?<![\w)\]])[{_MINUS}])?{_MONEY}({_DIGITS})")  # "10-5" are 10 and 5
_MARKED = re.compile(rf"#{{4,}}+[\s*:=\\_`(]*{_MONEY}([{_MINUS}])?[^\S\n]?{_MONEY}({_DIGITS})")
_MARK = re.compile("#{4,}+")
_NEXT = re.compile(r"Question\s*:|^[^\S\n]*Q\s*:", re.MULTILINE)
"""Where a model goes on to a problem of its own."""


def marked_number(text: str) -> Decimal | None:
    """The number at the first `####` that has one, in the first problem's answer."""
    return _marked(_own_part(text))


def final_number(text: str) -> Decimal | None:
    """The number at the first `####` that has one; without such a mark the last number. Signs and digits may be any
    that Unicode has; commas and narrow spaces group digits; what follows a further "Question:" is not read."""
    own = _own_part(text)
    marked = _marked(own)
    if marked is not None:
        return marked
    found = [_value(*match.groups()) for match in _NUMBER.finditer(own)]
    return found[-1] if found else None


def _own_part(text: str) -> str:
    """The answer itself: the first stretch between "Question:"s that holds a number."""
    text = text.replace("{,}", ",").replace("\\$", "$")  # as LaTeX writes them
    return next((part for part in _NEXT.split(text) if _NUMBER.search(part)), text)


def _marked(text: str) -> Decimal | None:
    """At the first mark that a number follows directly ("#### Step 1" has none), else within the last mark's text."""
    direct = _MARKED.search(text)
    if direct is not None:
        return _value(*direct.groups())
    inside = [found for part in _MARK.split(text)[1:] if (found := _NUMBER.search(part)) is not None]
    return _value(*inside[-1].groups()) if inside else None


def _value(sign: str | None, digits: str) -> Decimal:
    plain = re.sub(f"[{_COMMA}{_SPACE}]", "", digits)
    number = Decimal(re.sub(f"[{_POINT}]", ".", plain))
    return -number if sign else number
