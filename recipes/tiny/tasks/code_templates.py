"""Forty small Python functions with blanks: parameter names (`{p}`, `{q}`) and constants (`{k}`, `{m}`; `{c}`, `{d}`
are letters). Every body uses at least two blanks, so that a neighbour with other constants does not answer."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Template:
    """`kind` says what the parameters hold (see `code.PARAMETERS`), `most` bounds the constants."""

    kind: str
    doc: str
    body: str
    most: int = 99


def _returns(kind: str, doc: str, expression: str, most: int = 99) -> Template:
    return Template(kind, doc, f"    return {expression}", most)


TEMPLATES: tuple[Template, ...] = (
    _returns("list", "Multiply each number in {p} by {k} and add {m}.", "[v * {k} + {m} for v in {p}]"),
    _returns("list", "Keep the numbers in {p} above {k} and below {m}.", "[v for v in {p} if {k} < v < {m}]"),
    _returns("list", "Sum the numbers in {p} above {k}, then add {m}.", "sum(v for v in {p} if v > {k}) + {m}"),
    _returns("list", "Count the numbers in {p} below {k} or above {m}.", "sum(1 for v in {p} if v < {k} or v > {m})"),
    _returns("list", "Add {k} to each number in {p} below {m}.", "[v + {k} if v < {m} else v for v in {p}]"),
    _returns("list", "Cap each number in {p} at {k} and add {m}.", "[min(v, {k}) + {m} for v in {p}]"),
    _returns("list", "Raise each number in {p} to at least {k}, then subtract {m}.",
             "[max(v, {k}) - {m} for v in {p}]"),
    _returns("list", "Take the first {k} of {p} in reverse, each times {m}.", "[v * {m} for v in {p}[:{k}][::-1]]", 9),
    _returns("list", "Skip the first {k} of {p}, then keep one in every {m}.", "{p}[{k}:][::{m}]", 9),
    _returns("list", "Return the largest of {p}, or {k} if it is empty, minus {m}.", "max({p}, default={k}) - {m}"),
    _returns("list", "Return the smallest of {p}, or {k} if it is empty, plus {m}.", "min({p}, default={k}) + {m}"),
    _returns("list", "Say if any number in {p} is divisible by {k} and above {m}.",
             "any(v % {k} == 0 and v > {m} for v in {p})"),
    _returns("list", "Say if all numbers in {p} are above {k} or below {m}.", "all(v > {k} or v < {m} for v in {p})"),
    _returns("list", "Return the smallest of {p} plus {k} and the largest minus {m}.",
             "(min({p}, default=0) + {k}, max({p}, default=0) - {m})"),
    _returns("list", "Map each number in {p} to itself times {k} plus {m}.", "{{v: v * {k} + {m} for v in {p}}}"),
    _returns("list", "Add {k} times the index to each number in {p}, then {m}.",
             "[v + {k} * i + {m} for i, v in enumerate({p})]"),
    _returns("list", "Sort {p} downward and drop numbers below {k} or equal to {m}.",
             "[v for v in sorted({p}, reverse=True) if v >= {k} and v != {m}]"),
    Template("list", "Start from {k} and add {m} times each number in {p}.",
             "    total = {k}\n    for v in {p}:\n        total += {m} * v\n    return total"),
    Template("list", "Collect the numbers in {p} divisible by {k}, plus {m}.",
             "    result = []\n    for v in {p}:\n        if v % {k} == 0:\n            result.append(v + {m})\n"
             "    return result"),
    Template("list", "Return the first number in {p} above {k}, else {m}.",
             "    for v in {p}:\n        if v > {k}:\n            return v\n    return {m}"),
    Template("int", "Halve {p} until it is at most {k} and count the halvings from {m}.",
             "    count = {m}\n    while {p} > {k}:\n        {p} //= 2\n        count += 1\n    return count"),
    Template("int", "Subtract {m} from {p} if it is above {k}, else add {m}.",
             "    if {p} > {k}:\n        return {p} - {m}\n    return {p} + {m}"),
    _returns("int", "Multiply {p} by {k}, add {m} and negate the result.", "-({p} * {k} + {m})"),
    _returns("int", "Return the remainder of {p} plus {k} divided by {m}.", "({p} + {k}) % {m}"),
    _returns("int", "List the first {p} multiples of {k}, each plus {m}.", "[{k} * i + {m} for i in range({p})]"),
    _returns("int", "Limit {p} to at least {k}, then to at most {m}.", "min(max({p}, {k}), {m})"),
    _returns("int", "Say if {p} differs from {k} and is below {m}.", "{p} != {k} and {p} < {m}"),
    _returns("int", "Return the distance of {p} from {k} times {m}.", "abs({p} - {k}) * {m}"),
    _returns("int", "Sum the squares from {k} up to {p}, then add {m}.",
             "sum(i * i for i in range({k}, {p} + 1)) + {m}"),
    _returns("ints", "Return {k} times {p} plus {m} times {q}.", "{k} * {p} + {m} * {q}"),
    _returns("ints", "Return the larger of {p} times {k} and {q} plus {m}.", "max({p} * {k}, {q} + {m})"),
    _returns("list int", "Add {q} times {k} to the numbers in {p} below {m}.",
             "[v + {q} * {k} for v in {p} if v < {m}]"),
    _returns("str", "Replace '{c}' by '{d}' in {p} and make it upper case.", "{p}.replace('{c}', '{d}').upper()"),
    _returns("str", "Count '{c}' and '{d}' in {p}, then add {k}.", "{p}.count('{c}') + {p}.count('{d}') + {k}"),
    _returns("str", "Remove '{c}' and '{d}' from {p}.", "''.join(ch for ch in {p} if ch not in '{c}{d}')"),
    _returns("str", "Repeat {p} {k} times with '{c}' between.", "'{c}'.join([{p}] * {k})", 20),
    _returns("str", "Say if {p} starts with '{c}' or ends with '{d}'.", "{p}.startswith('{c}') or {p}.endswith('{d}')"),
    _returns("str", "Join the first {k} and the last {m} letters of {p}.", "{p}[:{k}] + {p}[-{m}:]", 9),
    _returns("str", "Split {p} at '{c}' and join it with '{d}'.", "'{d}'.join({p}.split('{c}'))"),
    _returns("str", "Join the words of {p} longer than {k} with '{c}'.",
             "'{c}'.join(w for w in {p}.split() if len(w) > {k})", 9),
)  # fmt: skip
