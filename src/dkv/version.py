"""Which dkv this is, as its results and its command line report it. Light to import."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

__all__ = ["VERSION"]

try:
    VERSION = version("dkv")
    """The version of the installed package; "0+unknown" where the source runs without being installed."""
except PackageNotFoundError:
    VERSION = "0+unknown"
