"""Who may import whom: one table over the packages and loose modules of `dkv`, held without exceptions.

The same table stands in docs/architecture.md. Every `import` counts: at the top of a module, inside a function, and
under `TYPE_CHECKING`.
"""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

import dkv
from tests.support.import_table import EVERYBODY, TABLE

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


def imports_in(source: str, known: Mapping[str, Path]) -> Iterator[str]:
    """The modules of `dkv` that a source imports, however it does."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "dkv")
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "dkv":
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in known else str(node.module)


@functools.cache
def imports() -> Mapping[str, frozenset[str]]:
    """Module -> the modules of `dkv` that it imports."""
    known = modules()
    return {name: frozenset(imports_in(path.read_text(encoding="utf-8"), known)) for name, path in known.items()}


def allowed(importer: str, imported: str) -> bool:
    """Whether the table lets a module import another."""
    room, other = room_of(importer), room_of(imported)
    if room == other or other in EVERYBODY:
        return True
    inner = imported.removeprefix("dkv.")
    return any(entry in ("", other) or inner == entry or inner.startswith(f"{entry}.") for entry in TABLE[room])


def cycle_in(graph: Mapping[str, frozenset[str]]) -> list[str]:
    """One cycle of a graph, from a node back to itself; [] where there is none."""
    state: dict[str, int] = {}

    def visit(node: str, path: list[str]) -> list[str]:
        state[node] = 1
        for other in sorted(graph.get(node, ())):
            if state.get(other) == 1:
                return [*path[path.index(other) :], other] if other in path else [other, other]
            if other not in state and (found := visit(other, [*path, other])):
                return found
        state[node] = 2
        return []

    for node in sorted(graph):
        if node not in state and (found := visit(node, [node])):
            return found
    return []


@pytest.mark.parametrize("name", sorted(modules()))
def test_a_module_imports_what_the_table_allows(name: str) -> None:
    wrong = sorted(other for other in imports()[name] if not allowed(name, other))
    assert not wrong, f"{name} imports {', '.join(wrong)}; see tests/support/import_table.py"


def test_every_package_stands_in_the_table() -> None:
    assert {room_of(name) for name in modules()} == set(TABLE)


@pytest.mark.parametrize("room", sorted(set(TABLE) - {"", "cli", "__main__"}))
def test_a_wrong_import_is_found_in_every_package(room: str) -> None:
    """Each way of importing what nobody may import but the command line."""
    for line in ("import dkv.cli.guard", "from dkv.cli import guard", "def f():\n    from dkv.cli.guard import main"):
        found = list(imports_in(line, modules()))
        assert found
        assert not any(allowed(f"dkv.{room}.anything", other) for other in found)


def test_no_module_imports_itself_through_others() -> None:
    assert cycle_in(imports()) == []


def test_a_cycle_is_found() -> None:
    assert cycle_in({"a": frozenset({"b"}), "b": frozenset({"c"}), "c": frozenset({"b"})}) == ["b", "c", "b"]


def test_no_module_name_stands_twice() -> None:
    """But for the names that say what a file is to its package."""
    stems = [path.stem for path in modules().values() if path.stem not in ("__init__", "base", "common")]
    assert sorted({stem for stem in stems if stems.count(stem) > 1}) == []


def test_no_public_class_name_stands_twice() -> None:
    names = [
        node.name
        for path in modules().values()
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    ]
    assert sorted({name for name in names if names.count(name) > 1}) == []


def test_few_modules_lie_loose() -> None:
    assert len(list(ROOT.glob("*.py"))) <= 8


def test_no_test_imports_another() -> None:
    """What tests share lies in tests/support; a conftest.py gives fixtures and is not imported."""
    tests = ROOT.parents[1] / "tests"
    wrong = [
        f"{path.relative_to(tests)}: {node.module}"
        for path in sorted(tests.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom)
        and re.match(r"tests\b", node.module or "")
        and not (node.module or "").startswith("tests.support")
    ]
    assert wrong == []
