"""What caches and decoders there are, read from their source files: a list needs no torch, whose import takes seconds.

A file is read, not run: its frozen dataclasses with a `name`, their fields with plain defaults, and their docstrings.
Where a class is of another form, or another package offers one, all are imported instead.
"""

from __future__ import annotations

import ast
import inspect
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from dkv.core.registry import describe, discover, meaning_of, offered

__all__ = ["listed"]

Fields = dict[str, ast.expr | None]
"""Of a class, by name: the expression of its default, None where it has none."""


class _NotPlainError(Exception):
    """A class that cannot be understood without running its file."""


def listed(room: str) -> list[dict[str, Any]]:
    """Name, keys with defaults, required keys and meaning of each class of a room ("caches" or "decoders"), as
    `dkv.core.registry.describe` gives them, by name."""
    group = f"dkv.{room}"
    try:
        if offered(group, tuple(sys.path)):
            raise _NotPlainError
        found = [entry for path in sorted(_files(group)) for entry in _read(path)]
    except _NotPlainError:
        return describe(discover(import_module(group), group))
    return sorted(found, key=lambda entry: str(entry["name"]))


def _files(package: str) -> list[Path]:
    """The files of a package, which is not imported. Raises _NotPlainError where there are none, as in an archive."""
    spec = find_spec(package)
    places = None if spec is None else spec.submodule_search_locations
    files = [path for place in places or () for path in Path(place).glob("*.py") if path.name != "__init__.py"]
    if not files:
        raise _NotPlainError
    return files


def _read(path: Path) -> list[dict[str, Any]]:
    """The named classes of a file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [
        _entry(name, node, tree)
        for node in tree.body
        if isinstance(node, ast.ClassDef) and (name := _name_of(node)) is not None
    ]


def _name_of(node: ast.ClassDef) -> str | None:
    """What a spec calls the class; None where it has no `name` of its own."""
    for line in node.body:
        if isinstance(line, ast.AnnAssign) and ast.unparse(line.target) == "name" and line.value is not None:
            return str(_value(line.value))
        if isinstance(line, ast.Assign) and "name" in map(ast.unparse, line.targets):
            return str(_value(line.value))
    return None


def _entry(name: str, node: ast.ClassDef, tree: ast.Module) -> dict[str, Any]:
    fields = _fields(node, tree)
    return {
        "name": name,
        "keys": {key: _value(default) for key, default in fields.items() if default is not None},
        "required": [key for key, default in fields.items() if default is None],
        "meaning": meaning_of(inspect.cleandoc(ast.get_docstring(node) or "")),
    }


def _fields(node: ast.ClassDef, tree: ast.Module) -> Fields:
    """Of a dataclass and of its bases, in the order of its arguments. Raises _NotPlainError for another class."""
    found: Fields = {}
    for base in reversed(node.bases):
        found |= _fields(*_definition(ast.unparse(base), tree))
    own = [line for line in node.body if isinstance(line, ast.AnnAssign) and "ClassVar" not in ast.unparse(line)]
    decorators = [ast.unparse(decorator) for decorator in node.decorator_list]
    if any(isinstance(line, ast.FunctionDef) and line.name in ("__init__", "__new__") for line in node.body):
        raise _NotPlainError
    if own and not any(decorator.startswith("dataclass") for decorator in decorators):
        raise _NotPlainError
    return found | {ast.unparse(line.target): line.value for line in own}


def _definition(name: str, tree: ast.Module) -> tuple[ast.ClassDef, ast.Module]:
    """The class that a file calls `name`, and the file that defines it. Raises _NotPlainError."""
    for line in tree.body:
        if isinstance(line, ast.ClassDef) and line.name == name:
            return line, tree
        if isinstance(line, ast.ImportFrom) and (line.module or "").startswith("dkv."):
            real = next((alias.name for alias in line.names if (alias.asname or alias.name) == name), None)
            spec = find_spec(str(line.module).rpartition(".")[0]) if real else None
            for place in spec.submodule_search_locations or () if spec else ():
                file = Path(place) / f"{str(line.module).rpartition('.')[2]}.py"
                if file.is_file():
                    return _definition(str(real), ast.parse(file.read_text(encoding="utf-8")))
    raise _NotPlainError


def _value(node: ast.expr) -> Any:
    """A plain value. Raises _NotPlainError."""
    try:
        return ast.literal_eval(node)
    except ValueError:
        raise _NotPlainError from None
