"""What is asked of a model, under which settings, and in which batches."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dkv.tokenizer import Tokenizer

__all__ = ["Question", "Setting", "Turns", "as_prompt", "batches", "digest", "messages_of"]

Turns = tuple[tuple[str, str], ...]
"""A conversation as (role, text) pairs, the user's last, as data sets keep it; the engine takes messages."""


@dataclass(frozen=True)
class Setting:
    """How to generate. decoder, cache: specs; block_length, steps, gen_length: None = one block of the response, one
    token a step, and the task's own length; grow: whether the canvas grows by blocks, up to that length."""

    decoder: str
    cache: str
    cfg_scale: float = 0.0
    block_length: int | None = None
    steps: int | None = None
    gen_length: int | None = None
    grow: bool = False

    @property
    def base(self) -> Setting:
        """What it is compared with: no cache, all else equal."""
        return replace(self, cache="none")

    def __str__(self) -> str:
        """All but the cache and what is as usual."""
        given = {"block_length": self.block_length, "steps": self.steps, "gen_length": self.gen_length}
        guided = f", cfg_scale={self.cfg_scale:g}" if self.cfg_scale else ""
        grows = ", grow" if self.grow else ""
        return self.decoder + guided + "".join(f", {name}={value}" for name, value in given.items() if value) + grows


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


def as_prompt(asked: str | Turns, tokenizer: Tokenizer | None, chat: bool | None = None) -> str | list[dict[str, str]]:
    """What `lm.generate` takes for a text or a whole conversation: a conversation becomes messages, or one text where
    it does not go through a chat template. chat: as in `lm.generate`; tokenizer: the model's."""
    if isinstance(asked, str):
        return asked
    if chat is False or (chat is None and tokenizer is not None and not tokenizer.has_template):
        return "\n\n".join([*(f"{role}: {text}" for role, text in asked), "assistant:"])
    return messages_of(asked)


def messages_of(turns: Turns) -> list[dict[str, str]]:
    """A conversation as chat templates take it."""
    return [{"role": role, "content": text} for role, text in turns]
