"""The exception tree is the one that its docstring draws."""

from __future__ import annotations

import pytest

import dkv
from dkv import errors

PARENTS = {
    "DkvError": "Exception",
    "SettingError": "DkvError",
    "SpecError": "SettingError",
    "CapacityError": "SettingError",
    "PromptError": "DkvError",
    "ContextError": "PromptError",
    "CheckpointError": "DkvError",
    "HubError": "CheckpointError",
    "UnsupportedModelError": "CheckpointError",
    "AuditError": "DkvError",
    "RankError": "DkvError",
    "BusyError": "DkvError",
    "EngineError": "DkvError",
    "RequestError": "EngineError",
}


@pytest.mark.parametrize("name", errors.__all__)
def test_the_tree(name: str) -> None:
    kind = getattr(errors, name)
    assert kind.__bases__[0].__name__ == PARENTS[name]
    assert issubclass(kind, errors.DkvError)
    assert getattr(dkv, name) is kind
    assert kind.__doc__


def test_the_drawing_is_complete() -> None:
    assert errors.__doc__ is not None
    depth = {}
    for line in errors.__doc__.splitlines():
        words = [word.strip("|`-") for word in line.split()]
        named = [word for word in words if word in PARENTS]
        if named:
            depth[named[0]] = line.index(named[0])
    assert set(depth) == set(PARENTS) == set(errors.__all__)
    for name, parent in PARENTS.items():
        if parent in depth:
            assert depth[parent] < depth[name]


@pytest.mark.parametrize("name", ["SettingError", "SpecError", "PromptError"])
def test_bad_arguments_are_value_errors_too(name: str) -> None:
    assert issubclass(getattr(errors, name), ValueError)
