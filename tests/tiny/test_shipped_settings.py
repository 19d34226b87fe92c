"""The settings that come with an embedded model are found under its fingerprint, and those of this machine first."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dkv.checkpoints.tuned_settings import find_tuned, kept_for, tuned_path
from dkv.errors import SettingError
from dkv.tiny import MODELS


def test_the_embedded_model_comes_tuned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DKV_HOME", str(tmp_path))
    shipped = find_tuned(MODELS["tiny"], "tiny")
    assert shipped.block_length == 64
    assert shipped.upper <= 0.02
    assert kept_for(MODELS["tiny"], "int8") is None


def test_what_was_tuned_here_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DKV_HOME", str(tmp_path))
    path = tuned_path(MODELS["tiny"])
    path.parent.mkdir()
    old = {"cache": "none", "decoder": "random", "budget": "b", "upper": 0.1, "examples": 3, "speedup": 2.0}
    path.write_text(json.dumps({"format": "dkv-tuned 1", **old, "version": "v"}), encoding="utf-8")
    found = find_tuned(MODELS["tiny"], "tiny")
    assert (found.cache, found.block_length) == ("none", None)


@pytest.mark.parametrize(
    "change", [{"cache": 1}, {"block_length": "64"}, {"upper": True}, {"more": 1}, {"format": "2"}]
)
def test_a_file_with_other_things_in_it_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, object]
) -> None:
    monkeypatch.setenv("DKV_HOME", str(tmp_path))
    path = tuned_path(MODELS["tiny"])
    path.parent.mkdir()
    kept = json.loads(find_tuned(MODELS["tiny"], "tiny").text())
    path.write_text(json.dumps({**kept, **change}), encoding="utf-8")
    with pytest.raises(SettingError, match="holds no settings; delete it, and tune again"):
        kept_for(MODELS["tiny"])
