"""The part of a program that one of its functions needs: an answer's own tests, examples and input decide nothing."""

from __future__ import annotations

import ast
import symtable
from collections.abc import Collection, Iterator, Sequence

__all__ = ["bound_by", "needed"]

_TALK = frozenset({"print", "input", "help", "display"})


def needed(trees: Sequence[ast.Module], chosen: int, entry: str, bound: Collection[str]) -> list[ast.stmt]:
    """The statements, in order, that the function `entry` of `trees[chosen]` needs, directly or not; of the other
    trees those alone that define a name which neither the chosen tree nor `bound` has."""
    own = list(trees[chosen].body)
    last = max((n for n, node in enumerate(own) if entry in _binds(node)), default=0)
    has = set(bound).union(*map(_binds, own))
    groups = [own if n == chosen else _lent(tree, entry, has) for n, tree in enumerate(trees)]
    side = {id(node) for node in own[:last] if isinstance(node, ast.Expr)}  # such as `sys.setrecursionlimit(10000)`
    side |= {id(node) for node in own if isinstance(node, ast.ImportFrom) and _brings_more(node)}
    nodes = [node for group in groups for node in group if not isinstance(node, ast.Assert) and not _talks(node)]
    kept = _reachable(nodes, entry, side)
    return [node for node in nodes if id(node) in kept]


def bound_by(code: str) -> set[str]:
    """The names that the top level of some code binds; none where it does not compile."""
    try:
        return set().union(*map(_binds, ast.parse(code).body))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return set()


def _lent(tree: ast.Module, entry: str, has: Collection[str]) -> list[ast.stmt]:
    """What another block defines and the chosen one lacks."""
    return [node for node in tree.body if (names := _binds(node)) and not names & {entry, *has}]


def _reachable(nodes: Sequence[ast.stmt], entry: str, kept: set[int]) -> set[int]:
    """The ids of what binds the entry, of what is kept anyway, and of what those read or what changes that."""
    binds, reads = [_binds(node) for node in nodes], [_reads(node) for node in nodes]
    by_name: dict[str, list[int]] = {}
    for n, node in enumerate(nodes):
        for name in binds[n] | (set() if _defines_only(node) else reads[n]):
            by_name.setdefault(name, []).append(n)
    variables = {name for n, node in enumerate(nodes) if not _defines_only(node) for name in binds[n]}
    waiting = [entry, *(name for n, node in enumerate(nodes) if id(node) in kept for name in reads[n])]
    seen, kept = set[str](), set(kept)
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        for n in by_name.get(name, ()):
            changes = name in variables - {entry} and name in reads[n]  # as in `SQUARES.append(4)`
            if id(nodes[n]) not in kept and (name in binds[n] or changes):
                kept.add(id(nodes[n]))
                waiting.extend(reads[n])
    return kept


def _defines_only(node: ast.stmt) -> bool:
    return isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom))


def _brings_more(node: ast.ImportFrom) -> bool:
    """Whether an import does more than bind its names."""
    return node.module == "__future__" or any(alias.name == "*" for alias in node.names)


def _talks(node: ast.stmt) -> bool:
    """Whether a statement is a call such as `print(...)`."""
    call = node.value if isinstance(node, ast.Expr) else None
    return isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in _TALK


def _binds(node: ast.stmt) -> set[str]:
    """The names that a statement of the top level binds, or whose items or attributes it sets."""
    names = {s.get_name() for s in _table(node).get_symbols() if s.is_assigned() or s.is_imported()}
    targets = [n for n in _outside_functions(node) if isinstance(n, (ast.Attribute, ast.Subscript))]
    for target in targets:
        root: ast.expr = target
        while isinstance(root, (ast.Attribute, ast.Subscript)):
            root = root.value
        if isinstance(target.ctx, ast.Store) and isinstance(root, ast.Name):
            names.add(root.id)
    return names


def _outside_functions(node: ast.AST) -> Iterator[ast.AST]:
    yield node
    if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)):
        for child in ast.iter_child_nodes(node):
            yield from _outside_functions(child)


def _reads(node: ast.stmt) -> set[str]:
    """The names of the module that a statement reads, in functions too."""
    top, names = _table(node), set[str]()
    tables = [top]
    while tables:
        table = tables.pop()
        tables.extend(table.get_children())
        names |= {s.get_name() for s in table.get_symbols() if (s.is_referenced() if table is top else s.is_global())}
    return names


def _table(node: ast.stmt) -> symtable.SymbolTable:
    return symtable.symtable(ast.unparse(node), "answer", "exec")
