"""The memory that a process may have, and models that are larger."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import dkv
from dkv.checkpoints.weights import check_room
from dkv.errors import CheckpointError
from dkv.models.saving import convert
from dkv.storage.machine import machine_memory
from tests.support.checkpoints import write_checkpoint


def test_the_machine_says_how_much_it_has() -> None:
    memory = machine_memory()
    assert memory is None or memory > 1 << 28


def test_a_model_larger_than_the_memory_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = write_checkpoint(tmp_path / "model")
    monkeypatch.setattr("dkv.checkpoints.weights.machine_memory", lambda: 50_000)
    with pytest.raises(CheckpointError, match=r"the weights take .* and cpu has .* of memory; give a smaller dtype"):
        dkv.load(directory, device="cpu", dtype="float32")
    with pytest.raises(CheckpointError, match=r"model\.safetensors: has .* cannot be mapped"):
        convert(directory, tmp_path / "out", None, 10**9)
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_where_the_system_says_nothing_nothing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dkv.checkpoints.weights.machine_memory", lambda: None)
    check_room(1 << 62, torch.device("cpu"))
