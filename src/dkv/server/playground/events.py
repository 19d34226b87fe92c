"""What the page is told while a request runs: events start, step and end, or an error.

A step says of each position one letter: C committed, P provisional, M masked, in lower case where the position was
not computed at this step but read from the cache; a dot where a canvas that grows has none yet. Tokens are sent where
they changed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dkv.core.registry import spec_of

if TYPE_CHECKING:
    from dkv.engine import Request, Update
    from dkv.outputs import Frame, Generation
    from dkv.tokenizer import Tokenizer

__all__ = ["RunEvents", "error_event"]


def error_event(line: str) -> dict[str, Any]:
    """Why there will be no end, in the shape of the other routes' errors."""
    return {"error": {"message": line}}


class RunEvents:
    """The events of one request, in order. A token is sent only where it changed."""

    def __init__(self, tokenizer: Tokenizer, request: Request) -> None:
        self._tokenizer, self._request = tokenizer, request
        self._shown: list[int | None] = [None] * request.settings.gen_length
        self._pieces: dict[int, str] = {}
        self._company = 0
        self._reach = 0 if request.settings.grow else request.settings.gen_length

    def start(self) -> dict[str, Any]:
        """What will run: the settings as they were filled in."""
        settings = self._request.settings
        return {
            "event": "start",
            "cache": spec_of(settings.cache),
            "decoder": spec_of(settings.decoder),
            "prompt_rows": len(self._request.prompt),
            "gen_length": settings.gen_length,
            "block_length": settings.block_length,
            "steps": settings.steps,
            "grow": settings.grow,
            "cfg_scale": settings.cfg_scale,
            "seed": self._request.seed,
        }

    def update(self, update: Update, company: int) -> list[dict[str, Any]]:
        """A step, and after the last one the end. company: other requests active now."""
        self._company = max(self._company, company)
        events = [] if update.frame is None else [self._step(update.frame, update.text)]
        return events if update.generation is None else [*events, self._end(update.generation)]

    def _step(self, frame: Frame, text: str) -> dict[str, Any]:
        flags = list(zip(frame.committed, frame.provisional, frame.computed, strict=True))
        return {
            "event": "step",
            "cells": self._cells(flags),
            "tokens": self._changes(frame),
            "prompt_computed": frame.prompt_computed,
            "text": text,
            "draft": frame.text,
        }

    def _cells(self, flags: list[tuple[bool, bool, bool]]) -> str:
        """The letters. A position that comes into being is computed at once, with all of its block."""
        settings = self._request.settings
        if settings.grow:
            block, last = settings.block_length, max((p for p, each in enumerate(flags) if any(each)), default=0)
            self._reach = max(self._reach, (last // block + 1) * block)
        return "".join(_letter(*each) if p < self._reach else "." for p, each in enumerate(flags))

    def _changes(self, frame: Frame) -> list[tuple[int, int, str]]:
        """(position, id, its own text) where the token is another than before; a mask has no text."""
        known = [c or p for c, p in zip(frame.committed, frame.provisional, strict=True)]
        changed = [p for p, (new, old) in enumerate(zip(frame.token_ids, self._shown, strict=True)) if new != old]
        self._shown = list(frame.token_ids)
        return [(p, frame.token_ids[p], self._piece(frame.token_ids[p]) if known[p] else "") for p in changed]

    def _piece(self, token: int) -> str:
        """A token's own text, control tokens by their names."""
        if token not in self._pieces:
            self._pieces[token] = self._tokenizer.decode([token], keep_special=True)
        return self._pieces[token]

    def _end(self, generation: Generation) -> dict[str, Any]:
        stats = generation.stats
        return {
            "event": "end",
            "text": generation.text,
            "token_ids": generation.token_ids,
            "finish_reason": generation.finish_reason,
            "new_tokens": stats.new_tokens,
            "tokens_per_second": stats.tokens_per_second,
            "seconds": stats.seconds,
            "forwards": stats.forwards,
            "rows_computed": stats.rows_computed,
            "rows_total": stats.rows_total,
            "company": self._company,
        }


def _letter(committed: bool, provisional: bool, computed: bool) -> str:
    letter = "c" if committed else "p" if provisional else "m"
    return letter.upper() if computed else letter
