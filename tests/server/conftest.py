"""The fixtures that these tests share."""

from __future__ import annotations

from tests.support.server_fixtures import home, serve, tiny

__all__ = ["home", "serve", "tiny"]
