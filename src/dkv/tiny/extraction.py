"""The program in an answer: a function in a code block, among prose, or the rest of a function that the prompt began.

Answers are only parsed here, never run.
"""

from __future__ import annotations

import ast
import re
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dkv.tiny.dependencies import bound_by, needed

__all__ = ["FencedBlock", "fenced_blocks", "program_of"]

_FENCE = re.compile(r"^(?P<before>.*?)(?P<fence>`{3,}|~{3,})[^\S\n]*(?P<info>[^`\n]*)$")
_INDENT = re.compile(r"^[ \t\u00a0]+", re.MULTILINE)
_THOUGHTS = re.compile(r"\A.*</think(?:ing)?>", re.DOTALL | re.IGNORECASE)
_SESSION = re.compile(r"^ *>>> ?(?:async +def|def|class|import|from|@)", re.MULTILINE)
_TYPED = re.compile(r"^ *(?:(?:>>>|\.\.\.) ?|(?=```|~~~))(?P<typed>.*)$", re.MULTILINE)
_FUTURE = re.compile(r"^from __future__ import .*$", re.MULTILINE)
_QUOTE = re.compile(r"^ *> ?(?=```|~~~|(?:async +)?def )", re.MULTILINE)
_OPENS = re.compile(r"(?:async\s+def|def|class|import|from|@|[A-Za-z_]\w*\s*(?::[^=\n]+)?=[^=])\s*")
_NEXT = re.compile(r"^(?:def|class|if|print|assert|#|@|```)", re.MULTILINE)
"""Where a completed body ends: the next thing at the left margin, as in HumanEval's stop sequences."""
_ATTEMPTS, _MOST_LINES, _STARTS = 16, 600, 100
"""Bounds on what is tried: an answer may be anything."""
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_DEFINES = (*_FUNCTIONS, ast.ClassDef, ast.Import, ast.ImportFrom, ast.Assign, ast.AnnAssign)


@dataclass(frozen=True)
class FencedBlock:
    """A fenced block: the first word after the fence, lower case, and what stands between the fences."""

    tag: str
    code: str


def program_of(head: str, entry: str, text: str) -> str:
    """The whole program that an answer makes of a prompt. head: the prompt's own code, which ends with the function
    `entry` to be completed, or has none.

    In this order: the first fenced block that compiles and defines the function (one with a body before one without),
    with what it needs of the other blocks; the longest stretch of lines that does, fenced or not; the answer as the
    function's body. What the answer runs beside its definitions (its own tests, examples, input) is left out.
    """
    text = _plain(text)
    for way in (text, _unquoted(text)):
        if (found := _whole(head, entry, way)) is not None:
            return found
    return _completed(head, entry, fenced_blocks(text), text)


def _whole(head: str, entry: str, text: str) -> str | None:
    """The program where the answer has the whole function."""
    before, codes = _before(head, entry), [block.code for block in fenced_blocks(text)]
    defining = [number for number, code in enumerate(codes) if _defines(code, entry)]
    if defining:
        chosen = next((n for n in defining if not _is_stub(codes[n], entry)), defining[0])
        return _joined(before, _needed(codes, chosen, entry, bound_by(before)))
    for code in (*codes, text):
        if (found := _stretch(code, entry)) is not None:
            return _joined(before, _needed([found], 0, entry, bound_by(before)))
    return None


def _plain(text: str) -> str:
    """The answer after a model's thoughts, with plain line ends, and spaces as indents."""
    text = _THOUGHTS.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))
    return _INDENT.sub(lambda found: found[0].replace("\u00a0", " ").expandtabs(4), text)


def _unquoted(text: str) -> str:
    """What stands in a quotation (`> `), and what was typed in a session of the interpreter (`>>> `)."""
    if _QUOTE.search(text):
        text = re.sub(r"^ *>(?!>) ?", "", text, flags=re.MULTILINE)
    if _SESSION.search(text):
        text = "\n".join(found["typed"] for found in _TYPED.finditer(text))
    return text


def fenced_blocks(text: str) -> list[FencedBlock]:
    """The blocks between pairs of fences (three or more backticks or tildes); the last one may be left open. A fence's
    own indent is taken from its lines."""
    blocks: list[FencedBlock] = []
    opened, kept = None, list[str]()
    for line in text.split("\n"):
        if opened is None:
            opened, kept = _opening(line), []
        elif (rest := _closing(line, opened)) is not None:
            blocks.append(_block(opened, [*kept, *([rest] if rest.strip() else [])]))
            opened = None
        else:
            kept.append(line)
    return blocks if opened is None else [*blocks, _block(opened, kept)]


def _opening(line: str) -> re.Match[str] | None:
    """The fence that opens a block: at the start of a line, or at its end after text, with one word behind it."""
    found = _FENCE.match(line)
    return None if found is None or (found["before"].strip() and len(found["info"].split()) > 1) else found


def _closing(line: str, opened: re.Match[str]) -> str | None:
    """What stands before a fence that closes the opened one, at the end of the line; None where none does."""
    fence = opened["fence"]
    bare = line.rstrip()
    rest = bare.rstrip(fence[0])
    return rest if len(bare) - len(rest) >= len(fence) else None


def _block(opened: re.Match[str], lines: Sequence[str]) -> FencedBlock:
    before = opened["before"]
    indent = len(before) if not before.strip() else 0
    info = opened["info"].strip().lower().strip("{}").lstrip(".").split()
    own = [line[min(indent, len(line) - len(line.lstrip(" "))) :] for line in lines]
    return FencedBlock(info[0] if info else "", "".join(line + "\n" for line in own))


def _before(head: str, entry: str) -> str:
    """What the prompt has before the function: imports and helpers that an answer need not repeat."""
    at = re.search(rf"^[^\S\n]*(?:async[^\S\n]+)?def[^\S\n]+{re.escape(entry)}[^\S\n]*\(", head, re.MULTILINE)
    return head if at is None else head[: at.start()]


def _parsed(code: str) -> ast.Module | SyntaxError:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an answer's odd escapes are its own affair
        try:
            return ast.parse(code)
        except SyntaxError as error:
            return error
        except (ValueError, RecursionError, MemoryError) as error:  # null bytes, nesting without end
            return SyntaxError(str(error))


def _defines(code: str, entry: str) -> bool:
    """Whether the code compiles and binds the name at its top level."""
    tree = _parsed(code)
    return isinstance(tree, ast.Module) and any(_binds(node, entry) for node in tree.body)


def _binds(node: ast.stmt, entry: str) -> bool:
    if isinstance(node, _FUNCTIONS):
        return node.name == entry
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    bound = isinstance(node, ast.Assign) or (isinstance(node, ast.AnnAssign) and node.value is not None)
    return bound and any(isinstance(target, ast.Name) and target.id == entry for target in targets)


def _is_stub(code: str, entry: str) -> bool:
    """Whether the function has no body yet: a docstring, `pass`, `...` or NotImplementedError alone."""
    tree = _parsed(code)
    found = [n for n in getattr(tree, "body", []) if isinstance(n, _FUNCTIONS) and n.name == entry]
    empty = (ast.Pass, ast.Raise)
    return bool(found) and all(
        isinstance(node, empty) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
        for node in found[-1].body
    )


def _needed(codes: Sequence[str], chosen: int, entry: str, bound: set[str]) -> str:
    """The code of the chosen block, with what it needs of the others and without what it does not: as it was written
    where that is all of it."""
    if len(codes) > _ATTEMPTS:
        codes, chosen = codes[chosen : chosen + 1], 0
    parsed = [_parsed(code) for code in codes]
    trees = [tree if isinstance(tree, ast.Module) else ast.Module([], []) for tree in parsed]
    try:
        nodes = needed(trees, chosen, entry, bound)
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # as `_parsed`, and `nonlocal` at a wrong place
        return codes[chosen]
    return codes[chosen] if nodes == trees[chosen].body else ast.unparse(ast.Module(nodes, []))


def _joined(before: str, code: str) -> str:
    """Both, with `from __future__` imports at the top, where alone they may stand."""
    whole = f"{before}\n{code}"
    first = [found[0] for found in _FUTURE.finditer(whole)]
    return "\n".join([*first, _FUTURE.sub("", whole)]) if first else whole


def _stretch(text: str, entry: str) -> str | None:
    """The longest run of lines that compiles and defines the function, under the imports and helpers that stand before
    it; as definitions alone, since a word of prose after it compiles too. None where there is none."""
    found = list(_runs(text.split("\n")))
    mine = [n for n, run in enumerate(found) if any(_binds(node, entry) for node in run.body)]
    if not mine:
        inner = _outdented(text, entry)
        return None if inner is None else _stretch(inner, entry)
    best = max(mine, key=lambda n: (not _is_stub(code := ast.unparse(found[n]), entry), len(code)))
    kept = [run for n, run in enumerate(found[: best + 1]) if n == best or n not in mine]
    nodes: list[ast.stmt] = [node for run in kept for node in run.body if isinstance(node, _DEFINES)]
    return ast.unparse(ast.Module(nodes, []))


def _runs(lines: Sequence[str]) -> Iterator[ast.Module]:
    """The longest runs of lines that compile, one after another, each from a line that opens a statement."""
    at = tried = 0
    while at < len(lines) and tried < _STARTS:
        opens = _OPENS.match(lines[at])
        tried += opens is not None
        end, tree = _longest(lines, at) if opens else (at, None)
        if tree is not None and tree.body:
            yield tree
        at = max(end, at + 1)


def _longest(lines: Sequence[str], start: int) -> tuple[int, ast.Module | None]:
    """How far the lines from `start` on compile, and what they make. An error names the first line that does not, so a
    few attempts do; text that needs more is no program."""
    end = min(len(lines), start + _MOST_LINES)
    for _ in range(_ATTEMPTS):
        if end <= start:
            break
        tree = _parsed("\n".join(lines[start:end]) + "\n")
        if isinstance(tree, ast.Module):
            return end, tree
        end = min(end - 1, start + max((tree.lineno or 1) - 1, 0))
    return start, None


def _outdented(text: str, entry: str) -> str | None:
    """The text less the indent that the function's line has, as in an indented block; None where it has none."""
    at = re.search(rf"^( +)(?:async +)?def +{re.escape(entry)} *\(", text, re.MULTILINE)
    if at is None:
        return None
    indent = len(at[1])
    return "\n".join(line[min(indent, len(line) - len(line.lstrip(" "))) :] for line in text.split("\n"))


def _completed(head: str, entry: str, blocks: Sequence[FencedBlock], text: str) -> str:
    """The prompt's function with a body that compiles under it, or else with the answer as it stands."""
    codes = [block.code for block in sorted(blocks, key=lambda b: not b.tag.startswith("py"))] or [text]
    top = head.rstrip("\n") + "\n"
    for code in codes:
        whole, parts = _bodies(code.strip("\n"))
        fitting = [body for body in whole if _fits(top, body, entry)]
        fitting = fitting[:1] or sorted((body for body in parts if _fits(top, body, entry)), key=_lines, reverse=True)
        if fitting:
            return top + fitting[0]
    return top + codes[0]


def _bodies(code: str) -> tuple[list[str], list[str]]:
    """Bodies that a text may be: as it was written; with the indent that its first line, or all of it, has lost; or
    without the prose before it. And of each what comes before the next thing, and what compiles."""
    lost = code if code.startswith(" ") else f"    {code}"
    indented = re.search(r"^ +\S", code, re.MULTILINE)
    ways = [code, lost, textwrap.indent(code, "    "), *([code[indented.start() :]] if indented else [])]
    cut = [way[: end.start()] if (end := _NEXT.search(way)) else way for way in ways]
    return ways, [*cut, *map(_as_far_as_it_compiles, ways)]


def _as_far_as_it_compiles(body: str) -> str:
    lines = body.split("\n")
    end, _ = _longest(["def _():", *lines], 0)
    return "\n".join(lines[: max(end - 1, 0)])


def _fits(top: str, body: str, entry: str) -> bool:
    """Whether the body compiles under the prompt's code as a part of its last function."""
    tree = _parsed(top + body + "\n")
    return bool(body.strip()) and isinstance(tree, ast.Module) and bool(tree.body) and _binds(tree.body[-1], entry)


def _lines(body: str) -> int:
    return sum(bool(line.strip()) for line in body.split("\n"))
