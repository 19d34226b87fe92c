"""A bare confidence-order sampler for the accuracies logged in training; the engine proper is `dkv.core.loop`."""

from __future__ import annotations

import random

import torch
from tokenizers import Tokenizer
from torch import Tensor

from dkv.tiny import Example, Task
from recipes.tiny.network import Network
from recipes.tiny.tasks import Generator
from recipes.tiny.tiny_tokenizer import END, MASK, as_chat, special_id


@torch.no_grad()
def decode(network: Network, prompts: list[list[int]], gen_length: int, steps: int, mask: int, end: int) -> Tensor:
    """Responses [B, gen_length]: each step commits the surest masked positions of every row."""
    device = network.cos.device
    starts = torch.tensor([len(p) for p in prompts], device=device)
    size = int(starts.max()) + gen_length
    tokens = torch.full((len(prompts), size), end)
    for row, prompt in enumerate(prompts):
        tokens[row, : len(prompt)] = torch.tensor(prompt)
    tokens = tokens.to(device)
    at = starts[:, None] + torch.arange(gen_length, device=device)
    response = torch.full_like(at, mask)
    for step in range(steps):
        tokens.scatter_(1, at, response)
        hidden = network(tokens, starts + gen_length, fast=False)
        read = network.rows(at)[..., None].expand(-1, -1, hidden.shape[-1])
        logits = network.head(hidden.gather(1, read)).float()
        logits[..., mask] = -torch.inf
        sure, best = logits.log_softmax(-1).max(-1)
        sure = sure.masked_fill(response != mask, -torch.inf)
        due = gen_length * (step + 1) // steps - gen_length * step // steps
        chosen = sure.topk(due, dim=1).indices
        response = response.scatter(1, chosen, best.gather(1, chosen))
    return response


def accuracy(
    network: Network, tokenizer: Tokenizer, task: Task, examples: list[Example], speed: int = 1, rows: int = 24
) -> float:
    """The share of examples answered, committing `speed` tokens a step, `rows` examples of like length at a time."""
    mask, end = special_id(tokenizer, MASK), special_id(tokenizer, END)
    pairs = [(tokenizer.encode(as_chat(e.messages), add_special_tokens=False).ids, e) for e in examples]
    pairs.sort(key=lambda pair: len(pair[0]))
    right = 0
    while pairs:
        fit = max(1, min(rows, 16384 // (len(pairs[-1][0]) + 64)))
        pairs, part = pairs[:-fit], pairs[-fit:]
        gen_length = part[0][1].gen_length
        response = decode(network, [p for p, _ in part], gen_length, gen_length // speed, mask, end).tolist()
        for ids, (_, example) in zip(response, part, strict=True):
            kept = ids[: ids.index(end)] if end in ids else ids
            right += task.check(example, tokenizer.decode(kept))
    return right / len(examples)


def quick_set(task: Generator, count: int, seed: int = 11) -> list[Example]:
    """Examples of the evaluation side for the training log: not the frozen set, which only the end may see."""
    rng = random.Random(f"quick {seed} {task.name}")
    return [task.evaluation(rng) for _ in range(count)]
