"""A line of the output: what one line of the input got."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dkv.outputs import Generation

__all__ = [
    "Record", "answer_record", "error_record", "failed_on_the_way", "failure_of", "failure_record", "number_of",
    "openai_id", "tokens_of",
]  # fmt: skip

FAILED = "request_failed"
"""`code` of a line that was sound, and failed on the way: unlike a bad line, it stops no job."""

Record = Mapping[str, Any]
"""`line`, its number in the input; `id`; and an answer's fields, or `error`. In OpenAI's form: `id`, which ends with
the number; `custom_id`; `response`; `error`."""

_OPENAI_ID = "batch_req_"


def openai_id(line: int) -> str:
    """The `id` of the answer to a line in OpenAI's form."""
    return f"{_OPENAI_ID}{line}"


def number_of(record: Record) -> int:
    """The number of the line that a record answers. Raises ValueError where it has none."""
    number = record.get("line")
    if number is None and str(record.get("id")).startswith(_OPENAI_ID):
        number = int(str(record["id"]).removeprefix(_OPENAI_ID))
    if type(number) is not int:
        raise ValueError("not an answer of a batch job")
    return number


def _body_of(record: Record) -> Mapping[str, Any] | None:
    """The body of an answer in OpenAI's form; None for another."""
    response = record.get("response")
    return response["body"] if isinstance(response, Mapping) else None


def failure_of(record: Record) -> str | None:
    """Why a line could not be answered; None where it was."""
    body = _body_of(record)
    error = record.get("error") if body is None else body.get("error", {}).get("message")
    return None if error is None else str(error)


def failed_on_the_way(record: Record) -> bool:
    """Whether a line was sound, and its answer failed."""
    body = _body_of(record)
    return bool((record if body is None else body.get("error", {})).get("code") == FAILED)


def tokens_of(record: Record) -> int:
    """New tokens of an answer."""
    body = _body_of(record)
    return int(record.get("new_tokens", 0) if body is None else body.get("usage", {}).get("completion_tokens", 0))


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


def failure_record(line: int, name: str | int, error: Exception) -> Record:
    """A line whose answer failed on the way, and why."""
    return {**error_record(line, name, error), "code": FAILED}
