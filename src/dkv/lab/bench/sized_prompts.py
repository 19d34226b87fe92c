"""Prompts of an exact length: text where the model reads text, else random ids."""

from __future__ import annotations

from collections.abc import Callable
from itertools import cycle, islice

import torch

from dkv.lm import DiffusionLM
from dkv.tiny import TASKS, load_eval

__all__ = ["prompts_of"]


def prompts_of(lm: DiffusionLM, length: int, count: int, seed: int) -> list[list[int]]:
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
