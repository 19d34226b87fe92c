"""What a line of the input asks for: a prompt, a name, and the settings in which it differs from the others."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from dkv.batch.source import Line
from dkv.errors import PromptError, SettingError

if TYPE_CHECKING:
    from dkv.engine import Request
    from dkv.lm import DiffusionLM

__all__ = ["ARGUMENTS", "PROMPTS", "Asked", "Asking", "named", "read_line", "seed_of_line"]

PROMPTS = ("prompt", "messages", "question")
"""The fields that may hold the prompt; `question` is what data sets such as GSM8K call it."""

ARGUMENTS = (
    "gen_length", "block_length", "steps", "temperature", "top_p", "top_k", "cfg_scale", "seed", "cache", "decoder",
    "stop_at_eos", "cache_dtype", "stop", "chat", "eos_penalty", "min_tokens", "grow",
    "parse_special",
)  # fmt: skip
"""The fields that override an argument of the job: those of `lm.request`."""

_SWITCHES = ("stop_at_eos", "chat", "grow", "parse_special")
_ALIKE = 0.85


@dataclass(frozen=True)
class Asked:
    """A line that was read. line: its number; name: its `id`, or its number; prompt: as `lm.request` takes it; changes:
    its own arguments."""

    line: int
    name: str | int
    prompt: Any
    changes: Mapping[str, Any]


def named(line: Line, error: Exception) -> SettingError:
    """What is wrong with a line, said with its number."""
    return SettingError(f"input: line {line.number}: {error}")


def read_line(line: Line) -> Asked:
    """A line as what it asks for; whether a model can do it is not known here. null counts as left out.

    Raises SettingError and PromptError.
    """
    try:
        found = json.loads(line.text)
    except (ValueError, RecursionError):
        raise SettingError("not JSON; give one object a line") from None
    if not isinstance(found, dict):
        raise SettingError(f"not an object; give one with {' or '.join(PROMPTS)}")
    record = {name: value for name, value in found.items() if value is not None}
    name = record.get("id", line.number)
    if not isinstance(name, (str, int)) or isinstance(name, bool):
        raise SettingError(f"id={name!r} must be a text or a whole number")
    changes = {key: value for key, value in record.items() if key in ARGUMENTS}
    _check_names(record)
    _check_values(changes)
    return Asked(line.number, name, _prompt(record), changes)


def _prompt(record: Mapping[str, Any]) -> Any:
    given = [name for name in PROMPTS if name in record]
    if len(given) != 1:
        has = f"both {' and '.join(given)}" if given else "no prompt"
        raise PromptError(f"{has}; give one of {', '.join(PROMPTS)}")
    value = record[given[0]]
    kind = {"prompt": (str, list), "messages": (list,), "question": (str,)}[given[0]]
    if not isinstance(value, kind):
        wanted = {"prompt": "a text or a list of token ids", "messages": "a list of messages", "question": "a text"}
        raise PromptError(f"{given[0]}={str(value)[:40]!r} must be {wanted[given[0]]}")
    if given[0] == "messages" and not (value and all(isinstance(message, dict) for message in value)):
        raise PromptError("messages must be a list of {'role': ..., 'content': ...}, the user's last")
    return value


def _check_names(record: Mapping[str, Any]) -> None:
    """A data set's other fields are none of our business, but a misspelt argument is. Raises SettingError."""
    for name in record:
        meant = _meant(name)
        if meant is not None:
            raise SettingError(f"unknown field {name!r}; spell it {meant!r}, or leave it out")


@lru_cache(maxsize=1024)  # a file has few names and many lines
def _meant(name: str) -> str | None:
    """The argument that a field which is none was probably meant to be."""
    if name in (*ARGUMENTS, *PROMPTS, "id"):
        return None
    like = difflib.get_close_matches(name.lower().replace("-", "_"), ARGUMENTS, n=1, cutoff=_ALIKE)
    return like[0] if like else None


def _check_values(changes: Mapping[str, Any]) -> None:
    """What JSON can say and an argument cannot be, where the library would not see it. Raises SettingError."""
    for name in _SWITCHES:
        if not isinstance(changes.get(name, True), bool):
            raise SettingError(f"{name}={changes[name]!r} must be true or false")
    if isinstance(changes.get("seed"), list):
        raise SettingError(f"seed={changes['seed']!r} must be a whole number")


def seed_of_line(seed: int, number: int) -> int:
    """A line's own seed, below 2**53 so that every reader of JSON keeps it whole."""
    found = hashlib.blake2b(f"{seed} {number}".encode(), digest_size=8).digest()
    return int.from_bytes(found, "big") >> 11


@dataclass(frozen=True)
class Asking:
    """Lines as requests to a model. arguments: the job's, by name; seed: the job's own."""

    lm: DiffusionLM
    arguments: Mapping[str, Any]
    seed: int

    def request(self, asked: Asked) -> Request:
        """The request of a line. Raises SettingError and PromptError."""
        own = {"seed": seed_of_line(self.seed, asked.line)}
        request = self.lm.request(asked.prompt, **{**self.arguments, **own, **asked.changes})
        return replace(request, deltas=False)

    def check_job(self) -> None:
        """Raises SettingError where the job's own arguments cannot be; else that would be said of its first line."""
        self.lm.request([0], **self.arguments)

    def check(self, line: Line) -> None:
        """Raises SettingError naming the line where it cannot be asked."""
        try:
            self.request(read_line(line))
        except (SettingError, PromptError) as error:
            raise named(line, error) from None
