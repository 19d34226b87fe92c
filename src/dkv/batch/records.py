"""A line of the output: what one line of the input got."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dkv.generation import Generation

__all__ = ["Record", "answer_record", "error_record"]

Record = Mapping[str, Any]
"""`line`, its number in the input; `id`; and an answer's fields, or `error`."""


def answer_record(line: int, name: str | int, generation: Generation) -> Record:
    """An answer. prompt_tokens and new_tokens: counts (the end-of-text left out); rows_share: of the rows that no cache
    computes; seconds: from its first step to its last, in the company that it had. Without a tokenizer `text` is null
    and `token_ids` holds the new tokens."""
    stats = generation.stats
    ids = {} if generation.text is not None else {"token_ids": generation.token_ids[: stats.new_tokens]}
    return {
        "line": line,
        "id": name,
        "text": generation.text,
        **ids,
        "finish_reason": generation.finish_reason,
        "prompt_tokens": len(generation.prompt_ids),
        "new_tokens": stats.new_tokens,
        "forwards": stats.forwards,
        "rows_share": round(stats.rows_computed / stats.rows_total, 4) if stats.rows_total else 0.0,
        "seconds": round(stats.seconds, 4),
        "seed": generation.seed,
    }


def error_record(line: int, name: str | int, error: Exception) -> Record:
    """A line that could not be answered, and why."""
    return {"line": line, "id": name, "error": str(error)}
