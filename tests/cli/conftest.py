"""The fixtures that these tests share."""

from __future__ import annotations

from tests.support.cli_fixtures import checkpoint, cli, shell

__all__ = ["checkpoint", "cli", "shell"]
