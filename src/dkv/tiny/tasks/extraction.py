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

__all__ = ["Block", "fenced_blocks", "program_of"]

_FENCE = re.compile(r"^(?P<before>.*?)(?P<fence>`{3,}|~{3,})[^\S\n]*(?P<info>[^`\n]*)$")
_INDENT = re.compile(r"^[ \t]+", re.MULTILINE)
_OPENS = re.compile(r"(?:async\s+def|def|class|import|from|@|[A-Za-z_]\w*\s*(?::[^=\n]+)?=[^=])\s*")
_NEXT = re.compile(r"^(?:def|class|if|print|assert|#|@|```)", re.MULTILINE)
"""Where a completed body ends: the next thing at the left margin, as in HumanEval's stop sequences."""
_ATTEMPTS, _MOST_LINES, _STARTS = 16, 600, 100
"""Bounds on what is tried: an answer may be anything."""
_DEFINES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom, ast.Assign)


@dataclass(frozen=True)
class Block:
    """A fenced block: the first word after the fence, lower case, and what stands between the fences."""

    tag: str
    code: str


def program_of(head: str, entry: str, text: str) -> str:
    """The whole program that an answer makes of a prompt. head: the prompt's own code, which ends with the function
    `entry` to be completed, or has none.

    In this order: the first fenced block that compiles and defines the function; the longest stretch of lines that
    does, fenced or not; the answer as the function's body.
    """
    text = _INDENT.sub(lambda found: found[0].expandtabs(4), text.replace("\r\n", "\n"))
    blocks = fenced_blocks(text)
    before = _before(head, entry)
    for number, block in enumerate(blocks):
        if _defines(block.code, entry):
            helpers = [b.code for b in blocks[:number] if _only_defines(b.code) and not _defines(b.code, entry)]
            return "\n".join([before, *helpers, block.code])
    for code in (*(block.code for block in blocks), text):
        if (found := _stretch(code, entry)) is not None:
            return f"{before}\n{found}"
    return _completed(head, entry, blocks, text)


def fenced_blocks(text: str) -> list[Block]:
    """The blocks between pairs of fences (three or more backticks or tildes); the last one may be left open. A fence's
    own indent is taken from its lines."""
    blocks: list[Block] = []
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


def _block(opened: re.Match[str], lines: Sequence[str]) -> Block:
    before = opened["before"]
    indent = len(before) if not before.strip() else 0
    info = opened["info"].strip().lower().strip("{}").lstrip(".").split()
    own = [line[min(indent, len(line) - len(line.lstrip(" "))) :] for line in lines]
    return Block(info[0] if info else "", "".join(line + "\n" for line in own))


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
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        return node.name == entry
    return isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == entry for t in node.targets)


def _only_defines(code: str) -> bool:
    tree = _parsed(code)
    return isinstance(tree, ast.Module) and all(isinstance(node, _DEFINES[:-1]) for node in tree.body)


def _stretch(text: str, entry: str) -> str | None:
    """The longest run of lines that compiles and defines the function, under the imports and helpers that stand before
    it; as definitions alone, since a word of prose after it compiles too. None where there is none."""
    found = list(_runs(text.split("\n")))
    mine = [n for n, run in enumerate(found) if any(_binds(node, entry) for node in run.body)]
    if not mine:
        inner = _outdented(text, entry)
        return None if inner is None else _stretch(inner, entry)
    best = max(mine, key=lambda n: len(ast.unparse(found[n])))
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


def _completed(head: str, entry: str, blocks: Sequence[Block], text: str) -> str:
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
