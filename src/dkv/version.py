"""Which dkv this is, as its results and its command line report it. Light to import."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

__all__ = ["installed_version"]


def installed_version() -> str:
    """The version of the installed package; "0+unknown" where the source runs without being installed."""
    try:
        return version("dkv")
    except PackageNotFoundError:
        return "0+unknown"
