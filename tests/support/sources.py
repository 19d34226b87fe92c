"""The modules of `dkv`: their files, parsed once, and what each imports."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator, Mapping
from pathlib import Path

import dkv

__all__ = ["ROOT", "imports", "imports_in", "modules", "room_of", "tree_of"]

ROOT = Path(dkv.__file__).parent


def room_of(module: str) -> str:
    """The package or loose module that a dotted name lies in: "core" of "dkv.core.loop"."""
    return module.split(".")[1] if "." in module else ""


@functools.cache
def modules() -> Mapping[str, Path]:
    """Every module of `dkv` and its file."""
    found = {}
    for path in ROOT.rglob("*.py"):
        parts = path.relative_to(ROOT.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@functools.cache
def tree_of(name: str) -> ast.Module:
    """A module's source, parsed."""
    return ast.parse(modules()[name].read_text(encoding="utf-8"))


def imports_in(tree: ast.Module) -> Iterator[str]:
    """The modules of `dkv` that a source imports, however it does."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "dkv")
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "dkv":
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in modules() else str(node.module)


@functools.cache
def imports() -> Mapping[str, frozenset[str]]:
    """Module -> the modules of `dkv` that it imports."""
    return {name: frozenset(imports_in(tree_of(name))) for name in modules()}
