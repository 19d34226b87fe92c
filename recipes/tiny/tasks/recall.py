"""Pairs to recall: training only. Every answer token is a look-up by the token before it, which look-ups, lists and
dialogues all rest on and learn slowly by themselves."""

from __future__ import annotations

import random

from dkv.tiny import Example
from recipes.tiny.tasks.base import Generator
from recipes.tiny.tasks.vocabulary import CITIES, ITEMS, NAMES, THINGS

GEN_LENGTH = 64


def make(rng: random.Random, level: int) -> Example:
    """Three to eight pairs, and the same in another order. A key and its value stand side by side, or with a colon
    between them."""
    count = rng.randint(*((3, 5), (3, 7), (4, 8))[level])
    keys = rng.sample(rng.choice((THINGS, NAMES, ITEMS)), count)
    values = rng.choice((NAMES, CITIES, THINGS, tuple(str(n) for n in range(2, 31))))
    mark = rng.choice((" ", ": "))
    pairs = [f"- {key}{mark}{rng.choice(values)}" for key in keys]
    asked = rng.sample(pairs, count)
    order = ", ".join(pair[2:].split(mark, 1)[0] for pair in asked)
    lines = "\n".join(pairs)
    prompt = f"Recall: {order}\n{lines}" if rng.random() < 0.5 else f"{lines}\nRecall: {order}"
    return Example("recall", prompt, "\n".join(asked), GEN_LENGTH, prompt)


def check(example: Example, text: str) -> bool:
    """Every line right."""
    return [line.strip() for line in text.strip().splitlines()] == example.answer.splitlines()


TASK = Generator("recall", check, make)
