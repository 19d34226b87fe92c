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
_BOXED = re.compile(r"\\boxed\s*\{(?P<inside>(?:[^{}]|\{[^{}]*\})*)\}")
_SAID = re.compile(
    rf"\banswer\b(?:\s+(?:is|would\s+be))?[\s*:=_`(]*{_MONEY}([{_MINUS}])?{_MONEY}({_DIGITS})(?!\w|[^\S\n]*[-+*/=\u00d7\u00f7])",
    re.IGNORECASE,
)
_DIVIDED = re.compile(rf"[^\S\n]*/[^\S\n]*({_DIGITS})(?![^\S\n]*[-+*/=\u00d7\u00f7\d])")
_WORKED = re.compile(
    rf"(?:[^\S\n]*[-+*/x\u00d7\u00f7\u2212][^\S\n]*{_MONEY}{_DIGITS})+[^\S\n]*=[^\S\n]*{_MONEY}([{_MINUS}])?{_MONEY}({_DIGITS})"
)
"""What may follow a number: a divisor, as in `1/2`; a sum that is worked out, as in `12 + 5 = 17`."""
_FRACTION = re.compile(r"\\[dt]?frac\s*\{\s*(\d+)\s*\}\s*\{\s*(\d+)\s*\}")
_THOUGHTS = re.compile(r"\A.*</think(?:ing)?>", re.DOTALL | re.IGNORECASE)
_NEXT = re.compile(r"Question\s*:|^[^\S\n]*Q\s*:", re.MULTILINE)
"""Where a model goes on to a problem of its own."""


def marked_number(text: str) -> Decimal | None:
    """The number at the first `####` that has one, in the first problem's answer."""
    return _marked(_own_part(text))


def final_number(text: str) -> Decimal | None:
    """The number at the first `####` that has one; without such a mark the last one in a `\\boxed{}`, or behind the
    word "answer", or the last number. Signs and digits may be any that Unicode has; commas and narrow spaces group
    digits; what follows a further "Question:" is not read."""
    own = _own_part(text)
    marked = _marked(own)
    if marked is not None:
        return marked
    for found in reversed(list(_BOXED.finditer(own))):
        if (number := _last(found["inside"])) is not None:
            return number
    said = list(_SAID.finditer(own))
    return _value(*said[-1].groups()) if said else _last(own)


def _last(text: str) -> Decimal | None:
    found = list(_NUMBER.finditer(text))
    if not found:
        return None
    last = _value(*found[-1].groups())
    before = found[-2] if len(found) > 1 and text[found[-2].end() : found[-1].start()].strip() == "/" else None
    return last if before is None else _worked_out(_value(*before.groups()), text, before.end())


def _own_part(text: str) -> str:
    """The answer itself: the first stretch between "Question:"s that holds a number."""
    text = _THOUGHTS.sub("", text).replace("{,}", ",").replace("\\$", "$")  # as LaTeX writes them
    text = _FRACTION.sub(r"\1/\2", text)
    return next((part for part in _NEXT.split(text) if _NUMBER.search(part)), text)


def _marked(text: str) -> Decimal | None:
    """At the first mark that a number follows directly ("#### Step 1" has none), else within the last mark's text."""
    direct = _MARKED.search(text)
    if direct is not None:
        return _worked_out(_value(*direct.groups()), text, direct.end())
    inside = [found for part in _MARK.split(text)[1:] if (found := _NUMBER.search(part)) is not None]
    return _value(*inside[-1].groups()) if inside else None


def _worked_out(number: Decimal, text: str, end: int) -> Decimal:
    """The number that ends at `end`, or what stands for it: a fraction's value, or the result of its sum."""
    result = _WORKED.match(text, end)
    if result is not None:
        return _value(*result.groups())
    divided = _DIVIDED.match(text, end)
    divisor = _value(None, divided[1]) if divided else Decimal(0)
    return number / divisor if divisor else number


def _value(sign: str | None, digits: str) -> Decimal:
    plain = re.sub(f"[{_COMMA}{_SPACE}]", "", digits)
    number = Decimal(re.sub(f"[{_POINT}]", ".", plain))
    return -number if sign else number
