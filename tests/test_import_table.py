"""Who may import whom: one table over the packages and loose modules of `dkv`, held without exceptions.

The same table stands in docs/architecture.md. Every `import` counts: at the top of a module, inside a function, and
under `TYPE_CHECKING`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping

import pytest

from tests.support.import_table import EVERYBODY, TABLE
from tests.support.sources import ROOT, imports, imports_in, modules, room_of, tree_of


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
        found = list(imports_in(ast.parse(line)))
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
        for name in modules()
        for node in tree_of(name).body
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
