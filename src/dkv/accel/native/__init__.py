"""Row operations and whole layers in C for CPUs, built on the machine that runs them."""

from __future__ import annotations

__all__: list[str] = []
