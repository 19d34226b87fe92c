"""Training data: chunks of examples, made from (seed, chunk number, progress) alone, cut into batches by length.

A chunk is a pure function of those three, so a resumed run sees the same data, and chunks may be made ahead by other
processes. Rows of one bucket share a length; within it the response is what `masked` may hide.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from recipes.tiny.curriculum import STAGES, Stage, stage_at
from recipes.tiny.tasks import ALL
from recipes.tiny.tiny_tokenizer import END, as_chat, special_id

Row = tuple[list[int], int]  # token ids with end-of-text padding, start of the response
BUCKETS = (64, 80, 96, 112, 128, 160, 208, 320, 640, 1120, 1664)


@dataclass(frozen=True)
class Batch:
    """Rows [B, L] of one bucket: tokens, and per row where the response begins and where it ends (with its padding)."""

    tokens: Tensor
    start: Tensor
    stop: Tensor


def response_length(rng: random.Random, answer: int, gen_length: int) -> int:
    """Length of the response canvas for an answer of `answer` tokens with its end-of-text.

    Most canvases are tight, which is cheap; some are as evaluated, and some much longer, so that long ones work too.
    """
    draw = rng.random()
    if draw < 0.62:
        return answer + rng.randint(0, 8)
    if draw < 0.84:
        return max(answer, gen_length)
    if draw < 0.98:
        return answer + rng.randint(0, 96)
    return answer + rng.randint(96, 224)


def make_rows(
    tokenizer: Tokenizer, seed: int, chunk: int, progress: float, count: int, stages: tuple[Stage, ...] = STAGES
) -> list[Row]:
    """`count` training examples as rows."""
    rng = random.Random(f"{seed} {chunk}")
    stage = stage_at(progress, stages)
    names = rng.choices(list(stage.weights), list(stage.weights.values()), k=count)
    examples = [ALL[name].training(rng, rng.choices((0, 1, 2), stage.levels)[0]) for name in names]
    prompts = tokenizer.encode_batch([as_chat(example.messages) for example in examples], add_special_tokens=False)
    answers = tokenizer.encode_batch([example.answer for example in examples], add_special_tokens=False)
    end = special_id(tokenizer, END)
    rows: list[Row] = []
    for example, prompt, answer in zip(examples, prompts, answers, strict=True):
        length = response_length(rng, len(answer.ids) + 1, example.gen_length)
        padding = [end] * (length - len(answer.ids))
        rows.append(([*prompt.ids, *answer.ids, *padding], len(prompt.ids)))
    return [row for row in rows if len(row[0]) <= BUCKETS[-1]]


def make_chunk(
    tokenizer: Tokenizer,
    seed: int,
    chunk: int,
    progress: float,
    tokens: int,
    count: int = 4096,
    stages: tuple[Stage, ...] = STAGES,
) -> list[Batch]:
    """A chunk cut into shuffled batches of about `tokens` tokens; rows that fill no batch are dropped."""
    filling: dict[int, list[Row]] = {}
    batches = []
    for row in make_rows(tokenizer, seed, chunk, progress, count, stages):
        size = next(bucket for bucket in BUCKETS if len(row[0]) <= bucket)
        rows = filling.setdefault(size, [])
        rows.append(row)
        if len(rows) == max(1, tokens // size):
            batches.append(_batch(rows, size))
            filling[size] = []
    random.Random(f"order {seed} {chunk}").shuffle(batches)
    return batches


def _batch(rows: list[Row], size: int) -> Batch:
    grid = np.zeros((len(rows), size), dtype=np.int64)
    for i, (ids, _) in enumerate(rows):
        grid[i, : len(ids)] = ids
    starts = torch.tensor([start for _, start in rows])
    return Batch(torch.from_numpy(grid), starts, torch.tensor([len(ids) for ids, _ in rows]))


def draw_masks(batch: Batch, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Which positions [B, L] to hide and the weight [B] of each row: min(1/t, 5) as in LLaDA, capped.

    The shares t are stratified over the rows, and each row hides an exact count of its response, which takes noise
    out of the gradient.
    """
    rows, size = batch.tokens.shape
    length = batch.stop - batch.start
    share = (torch.randperm(rows, generator=generator) + torch.rand(rows, generator=generator)) / rows
    count = (share * length).ceil().clamp(min=1)
    position = torch.arange(size)[None]
    inside = (position >= batch.start[:, None]) & (position < batch.stop[:, None])
    noise = torch.rand(rows, size, generator=generator).masked_fill(~inside, 2.0)
    hidden = (noise.argsort(1).argsort(1) < count[:, None]) & inside
    return hidden, (length / count).clamp(max=5.0)
