"""Can the evaluation sets be answered by look-up? `python -m recipes.tiny.neighbours` answers each evaluation example
with the answer of its nearest among 20,000 training examples and prints the share that this gets right."""

from __future__ import annotations

import math
import random
import re
import zlib
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise

import torch

from dkv.tiny import Example, load_eval
from recipes.tiny.tasks import EVALUATED, Generator

TRAINING = 20_000
WIDTH = 4096


def features(text: str) -> Counter[int]:
    """Words, digits runs and marks of a text and their pairs, hashed to WIDTH buckets."""
    words = re.findall(r"[A-Za-z]+|\d+|[^\sA-Za-z0-9]", text.lower())
    pairs = [f"{a} {b}" for a, b in pairwise(words)]
    return Counter(zlib.crc32(piece.encode()) % WIDTH for piece in [*words, *pairs])


def matrix(texts: Iterable[str], weight: torch.Tensor | None = None) -> torch.Tensor:
    """Unit rows [N, WIDTH] of log counts, times the inverse document frequencies if given."""
    counts = [features(text) for text in texts]
    out = torch.zeros(len(counts), WIDTH)
    for row, count in enumerate(counts):
        for column, n in count.items():
            out[row, column] = 1 + math.log(n)
    if weight is not None:
        out = out * weight
    return torch.nn.functional.normalize(out, dim=1)


def nearest(questions: list[str], known: list[str]) -> list[int]:
    """For each question the index of the most similar known text (TF-IDF cosine)."""
    base = matrix(known)
    rarity = torch.log(len(known) / (1 + (base > 0).sum(0)))
    base = torch.nn.functional.normalize(base * rarity, dim=1)
    found: torch.Tensor = (matrix(questions, rarity) @ base.T).argmax(1)
    return [int(i) for i in found]


def asked(example: Example) -> str:
    """All that is said before the answer."""
    return "\n".join(text for _, text in example.messages)


def score(task: Generator, examples: list[Example], count: int = TRAINING, seed: int = 7) -> float:
    """The share of `examples` that the nearest of `count` training examples answers."""
    rng = random.Random(seed)
    known = [task.training(rng) for _ in range(count)]
    picks = nearest([asked(example) for example in examples], [asked(example) for example in known])
    right = [task.check(example, known[i].answer) for example, i in zip(examples, picks, strict=True)]
    return sum(right) / len(right)


if __name__ == "__main__":
    for name, task in EVALUATED.items():
        print(f"{name:8} {score(task, load_eval(name)):.3f}", flush=True)
