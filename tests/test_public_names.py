"""What every module exports, and that torch is imported only when it is needed."""

from __future__ import annotations

import ast
import functools
import importlib
import pkgutil
import subprocess
import sys

import pytest

import dkv
from tests.support.sources import ROOT, tree_of

MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages([str(ROOT)], "dkv.")
    if not module.name.endswith("__main__") and not module.name.startswith(("dkv.tiny", "dkv.cli"))
)


def kind_then_name(name: str) -> tuple[bool, bool, str]:
    """Constants, then classes, then functions, as the linter sorts them."""
    return not name.isupper(), not name[0].isupper(), name


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


@pytest.mark.parametrize("name", ["dkv", *MODULES])
def test_all_is_sorted_unique_and_there(name: str) -> None:
    module = importlib.import_module(name)
    names = module.__all__
    assert list(names) == sorted(set(names), key=kind_then_name)
    for exported in names:
        assert getattr(module, exported) is not None


@functools.cache
def importers() -> dict[str, list[tuple[str, set[str]]]]:
    """For each module that something is imported from: by whom, and which names."""
    found: dict[str, list[tuple[str, set[str]]]] = {}
    for name in ["dkv", *MODULES]:
        for node in ast.walk(tree_of(name)):
            if isinstance(node, ast.ImportFrom) and node.module:
                found.setdefault(node.module, []).append((name, {alias.name for alias in node.names}))
    return found


@pytest.mark.parametrize("name", ["dkv", *MODULES])
def test_public_definitions_are_exported_or_private(name: str) -> None:
    """A function or class without a leading underscore that other modules import is in `__all__`."""
    module = importlib.import_module(name)
    submodules = {m.name for m in pkgutil.iter_modules(getattr(module, "__path__", []))}
    for other, names in importers().get(name, []):
        imported = names - submodules
        assert not {n for n in imported if n.startswith("_")}, f"{other} takes private names of {name}"
        assert imported <= set(module.__all__), f"{other} takes names that {name} does not export"


@pytest.mark.parametrize("name", ["dkv", *MODULES])
def test_every_module_opens_with_a_docstring(name: str) -> None:
    assert (importlib.import_module(name).__doc__ or "").strip()


def test_importing_dkv_does_not_import_torch() -> None:
    assert (
        run("import sys, dkv, dkv.errors; print('torch' in sys.modules, len(dir(dkv)))") == f"False {len(dkv.__all__)}"
    )


@pytest.mark.parametrize("name", dkv.__all__)
def test_every_public_name_resolves(name: str) -> None:
    assert getattr(dkv, name) is not None


def test_names_resolve_in_a_fresh_process() -> None:
    assert (
        run("import dkv; print(dkv.load.__name__, dkv.caches.__name__, 'Step' in dir(dkv))") == "load dkv.caches True"
    )


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'dkv' has no attribute 'lod'"):
        dkv.lod  # noqa: B018


ROOMS = ("core", "models", "caches", "decoders")


def room_of(name: str) -> str:
    parts = name.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in ROOMS else "core"


@pytest.mark.parametrize("name", [n for n in MODULES if room_of(n) != "core"])
def test_rooms_know_nothing_of_each_other(name: str) -> None:
    """A model knows nothing of caches, a cache nothing of models, a decoder nothing of either."""
    for node in ast.walk(tree_of(name)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("dkv."):
            assert room_of(str(node.module)) in ("core", room_of(name))
            assert str(node.module) not in ("dkv.lm", "dkv.outputs", "dkv.core.loop")


CORE = (
    "dkv.core.canvas",
    "dkv.core.policy",
    "dkv.core.kv_cache",
    "dkv.core.sampling",
    "dkv.core.model",
    "dkv.core.loop",
    "dkv.tokenizer",
    "dkv.errors",
)


@pytest.mark.parametrize("name", CORE)
def test_the_core_imports_no_room(name: str) -> None:
    modules = [node.module or "" for node in ast.walk(tree_of(name)) if isinstance(node, ast.ImportFrom)]
    assert not [m for m in modules if room_of(m) != "core"]


@pytest.mark.parametrize("name", ["dkv.server.client_fields", "dkv.server.served_defaults", "dkv.jobs.job"])
def test_what_a_core_install_needs_of_the_server_imports_no_web_framework(name: str) -> None:
    assert run(f"import sys, {name}; print('fastapi' in sys.modules)") == "False"
