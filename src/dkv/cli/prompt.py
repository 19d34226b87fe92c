"""What the user typed or piped, as a prompt: text or token ids. Bytes that are not UTF-8 are refused here."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from dkv.errors import PromptError, SettingError

__all__ = ["read_prompt", "read_stops"]


def read_prompt(argument: str, ids: bool) -> str | list[int]:
    """The prompt that PROMPT stands for: "-" is standard input, less one line end at its end. Raises PromptError."""
    text = _read_standard_input() if argument == "-" else argument
    if not _is_utf8(text):
        raise PromptError(f"prompt: {text[:40]!a} is not UTF-8 text; convert it, for example with iconv")
    return _read_ids(text) if ids else text


def read_stops(stops: Sequence[str] | None) -> list[str]:
    """The stop texts given. Raises SettingError."""
    for stop in stops or ():
        if not _is_utf8(stop):
            raise SettingError(f"stop={stop!a} is not UTF-8 text; convert it, for example with iconv")
    return list(stops or ())


def _read_standard_input() -> str:
    if sys.stdin is None:
        raise PromptError("prompt: standard input is closed; give the prompt as an argument")
    try:
        text = sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise PromptError(
            f"prompt: standard input is not UTF-8 text (byte 0x{byte:02x} at offset {error.start}); "
            "convert it, for example with iconv"
        ) from None
    return text.removesuffix("\n").removesuffix("\r")


def _is_utf8(text: str) -> bool:
    """False where Python carried bytes of an argument along as lone surrogates."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _read_ids(text: str) -> list[int]:
    try:
        return [int(item) for item in text.replace(",", " ").split()]
    except ValueError:
        raise PromptError(f"prompt: {text[:40]!r} is not a list of token ids; leave out --ids for text") from None
