"""A script that runs a tokenizer.json from standard input on short texts of many kinds, with limits, and prints "fine",
or what is wrong. It imports the tokenizers library and the standard library only."""

from __future__ import annotations

import os
import sys
from contextlib import suppress

__all__ = ["PATIENCE", "TEXTS"]

PATIENCE = 120.0
"""Seconds by the clock; the processor time ends much sooner."""
_SECONDS = 4
_SECONDS_PER_MEGABYTE = 1.0
_MEMORY = 2 << 30
_MEMORY_PER_BYTE = 40

_ENDS = ("", "!", "b", "\n", "\x00")
TEXTS = [
    unit * 64 + end
    for unit in ("a", "A", "1", " ", "\n", "\t", "_", "-", "'", ".", "é", "中", "ab", "a ", "a1", "aA", " \n")
    for end in _ENDS
]


def _limit(size: int) -> None:
    with suppress(ImportError, OSError, ValueError):
        import resource

        seconds = _SECONDS + int(_SECONDS_PER_MEGABYTE * size / 1e6)
        memory = _MEMORY + _MEMORY_PER_BYTE * size
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))


def _verdict(serialized: str) -> str:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(serialized)
    for text in TEXTS:
        try:
            tokenizer.decode(tokenizer.encode(text).ids)
        except Exception:  # noqa: S112 - a text that it has no tokens for is no harm
            continue
    return "fine"


def _main() -> None:
    serialized = sys.stdin.buffer.read().decode()
    _limit(len(serialized))
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    os.environ["RUST_BACKTRACE"] = "0"
    try:
        print(_verdict(serialized))
    except BaseException as error:  # a panic of the library is no Exception
        print(str(error)[:1000] or type(error).__name__)


if __name__ == "__main__":
    _main()
