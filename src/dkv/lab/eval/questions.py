"""What is asked of a model, and in which batches."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from dkv.lab.eval.eval_settings import Setting
from dkv.lab.eval.turns import Turns

__all__ = ["Question", "batches", "digest"]


@dataclass(frozen=True)
class Question:
    """One prompt (a text, or a whole conversation) and how its response is to end.

    gen_length: canvas length in tokens; stop: texts; chat: as in `lm.generate`; temperature, top_p, top_k: how to
    sample; draw: which of several samples of one prompt.
    """

    prompt: str | Turns
    gen_length: int
    stop: tuple[str, ...] = ()
    chat: bool | None = None
    temperature: float = 0.0
    top_p: float | None = None
    top_k: int | None = None
    draw: int = 0

    @property
    def size(self) -> int:
        """Characters of the prompt: like sizes share a batch."""
        return len(self.prompt) if isinstance(self.prompt, str) else sum(len(text) for _, text in self.prompt)

    def under(self, setting: Setting) -> dict[str, Any]:
        """All that decides the answer, as the arguments of `lm.generate` that they become."""
        arguments = {**asdict(self), **asdict(setting), "gen_length": setting.gen_length or self.gen_length}
        if not setting.grow:
            del arguments["grow"]  # answers kept before there was such an argument keep their names
        return arguments


def digest(value: Mapping[str, Any]) -> str:
    """A short name for a JSON value, the same in every process and version of Python."""
    text = json.dumps(value, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


def batches(questions: Sequence[Question], size: int) -> Iterator[list[int]]:
    """Indices of questions that may share a call, with like prompt lengths: less padding, the same tokens."""

    def call(i: int) -> tuple[Any, ...]:
        q = questions[i]
        return (q.gen_length, q.stop, q.chat is None, q.chat or False, q.temperature, str(q.top_p), str(q.top_k))

    order = sorted(range(len(questions)), key=lambda i: (*call(i), questions[i].size))
    alike: dict[tuple[Any, ...], list[int]] = {}
    for i in order:
        alike.setdefault(call(i), []).append(i)
    for group in alike.values():
        yield from (group[first : first + size] for first in range(0, len(group), size))
