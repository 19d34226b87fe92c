"""What measurements ask: prompts from a file, of the embedded tasks, or of an exact length."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import chain, cycle, islice
from pathlib import Path
from typing import Any

import torch

from dkv.errors import SettingError
from dkv.lab.eval.questions import Question, as_prompt, digest
from dkv.lab.eval.suites import EMBEDDED, Problem, Suite, embedded
from dkv.lab.tune.budget import Budget
from dkv.lm import DiffusionLM
from dkv.tiny import TASKS, load_eval

__all__ = ["default_prompts", "read_prompts", "sized_prompts", "suites_of"]

_TUNED_TASKS = ("words", "lists", "code")
"""The tasks that tell caches apart best, all of 64 tokens: what to tune on."""

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
    return [sized_prompts(lm, min(_LENGTHS[n % len(_LENGTHS)], room), 1, n)[0] for n in range(count)]


def sized_prompts(lm: DiffusionLM, length: int, count: int, seed: int) -> list[list[int]]:
    """`count` prompts of `length` ids. Text: problems of the embedded model's evaluation sets, one after the other, cut
    at the front, so that each prompt ends with a whole problem where there is room. Without a tokenizer: drawn ids."""
    if lm.tokenizer is None:
        return _drawn(lm, length, count, seed)
    encode = lm.tokenizer.encode_chat if lm.tokenizer.has_template else lm.tokenizer.encode
    examples = [text.prompt for group in zip(*(load_eval(task) for task in TASKS), strict=True) for text in group]
    return [_text(encode, examples, seed + number, length) for number in range(count)]


def _text(encode: Callable[[str], list[int]], examples: list[str], last: int, length: int) -> list[int]:
    """The last `length` ids of the examples up to number `last`, counted around."""
    ids: list[int] = []
    last %= len(examples)
    for text in islice(cycle((*reversed(examples[: last + 1]), *reversed(examples[last + 1 :]))), length):
        ids = [*encode(text), *ids]
        if len(ids) >= length:
            break
    return ids[-length:]


def _drawn(lm: DiffusionLM, length: int, count: int, seed: int) -> list[list[int]]:
    """Ids with no special meaning."""
    config = lm.model.config
    special = {config.mask_id, config.pad_id, *config.eos_ids}
    plain = torch.tensor([i for i in range(config.vocab) if i not in special])
    draw = torch.Generator().manual_seed(seed)
    ids: list[list[int]] = plain[torch.randint(len(plain), (count, length), generator=draw)].tolist()
    return ids


def suites_of(tasks: str | None, prompts: Path | None, gen_length: int, count: int, budget: Budget) -> list[Suite]:
    """The tasks of a comma-separated list, or the first `count` prompts of a file at `gen_length` tokens each. Raises
    SettingError."""
    if prompts is None:
        names = _TUNED_TASKS if tasks is None else tuple(filter(None, (name.strip() for name in tasks.split(","))))
        for name in names:
            if name not in EMBEDDED:
                raise SettingError(f"tasks={tasks!r}: {name!r} is unknown; known: {', '.join(EMBEDDED)}")
        if not names:
            raise SettingError(f"tasks={tasks!r} names none; known: {', '.join(EMBEDDED)}")
        return [embedded(name) for name in dict.fromkeys(names)]
    if tasks is not None:
        raise SettingError("tasks and prompts exclude each other; give one of them")
    if budget.kind == "lost":
        raise SettingError("lost: prompts have no right answers to lose; give changed, the share that may change")
    asked = [_asked(str(prompts), prompt) for prompt in read_prompts(prompts, count)]
    return [Suite(prompts.name, tuple(Problem(Question(text, gen_length), bool, digest({})) for text in asked))]


def _asked(path: str, prompt: Any) -> str | tuple[tuple[str, str], ...]:
    if isinstance(prompt, str):
        return prompt
    if all(isinstance(turn, dict) and {"role", "content"} <= set(turn) for turn in prompt):
        return tuple((str(turn["role"]), str(turn["content"])) for turn in prompt)
    raise SettingError(f"prompts={path!r}: dkv tune takes texts and conversations, not token ids")
