"""What to ask: prompts from a file, the embedded tasks', or drawn ids for a checkpoint that reads no text."""

from __future__ import annotations

import json
from itertools import chain, islice
from pathlib import Path
from typing import Any

from dkv.errors import SettingError
from dkv.lab.bench.sized_prompts import prompts_of
from dkv.lab.eval.turns import as_prompt
from dkv.lm import DiffusionLM
from dkv.tiny import TASKS, load_eval

__all__ = ["default_prompts", "read_prompts"]

_LENGTHS = (16, 48, 96, 128)
"""Lengths of drawn prompts, in turn."""


def read_prompts(path: Path, count: int) -> list[Any]:
    """The first `count` prompts of a file, as `generate` takes them: one a line, or in a file that ends in .jsonl the
    field "prompt" of each line (a text, token ids, or the messages of a conversation). Raises SettingError."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise SettingError(f"prompts={str(path)!r}: {error.strerror}; give a file with a prompt a line") from None
    except UnicodeDecodeError:
        raise SettingError(f"prompts={str(path)!r} is not UTF-8 text; convert it, for example with iconv") from None
    is_json = path.suffix == ".jsonl"
    numbered = islice(((n, line) for n, line in enumerate(lines, 1) if line.strip()), count)
    found = [_prompt(f"prompts={str(path)!r}: line {n}", line) if is_json else line for n, line in numbered]
    if not found:
        raise SettingError(f"prompts={str(path)!r} holds no prompts; give a prompt a line")
    return found


def _prompt(where: str, line: str) -> Any:
    try:
        record = json.loads(line)
    except ValueError:
        raise SettingError(f'{where} is not JSON; write {{"prompt": "..."}}, or name the file .txt') from None
    if not isinstance(record, dict) or not record.get("prompt") or not isinstance(record["prompt"], (str, list)):
        raise SettingError(f'{where} has no "prompt"; give a text, a list of token ids, or a list of messages')
    return record["prompt"]


def default_prompts(lm: DiffusionLM, count: int, gen_length: int, chat: bool | None = None) -> list[Any]:
    """The embedded tasks' prompts, in turn; without a tokenizer, drawn ids of several lengths. chat: as in
    `lm.generate`, which they are for."""
    if lm.tokenizer is not None:
        examples = zip(*(load_eval(task) for task in TASKS), strict=True)
        return [as_prompt(e.asked, lm.tokenizer, chat) for e in islice(chain.from_iterable(examples), count)]
    room = max(lm.model.config.context - gen_length, 1)
    return [prompts_of(lm, min(_LENGTHS[n % len(_LENGTHS)], room), 1, n)[0] for n in range(count)]
