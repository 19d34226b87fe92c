"""What docs/checkpoints.md shows is what the program does."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from dkv.models import known_architectures
from dkv.models.unsupported import REFUSED
from tests.support.cli_fixtures import Cli
from tests.support.published_configs import LLADA_8B

PAGE = (Path(__file__).parent.parent.parent / "docs" / "checkpoints.md").read_text(encoding="utf-8")


def test_the_output_shown_is_real(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = re.search(r"```text\n\$ dkv (inspect .*)\n((?:.*\n)*?)```", PAGE)
    assert shown is not None
    (tmp_path / "config.json").write_text(json.dumps(LLADA_8B))
    monkeypatch.chdir(tmp_path)
    assert cli(*shown[1].split()).stdout == shown[2]


def test_every_architecture_is_listed() -> None:
    for name in known_architectures():
        assert f"| `{name}` | " in PAGE
    for name, reason in REFUSED.items():
        assert f"| `{name}` | {reason} |\n" in PAGE
