"""Bare arithmetic facts, several to an example: training only, the same lines as the word problems work with."""

from __future__ import annotations

import random

from dkv.tiny import Example
from recipes.tiny.tasks.base import Generator
from recipes.tiny.tasks.words import MOST

GEN_LENGTH = 64


def fact(rng: random.Random) -> tuple[str, int]:
    """One fact: `7*8` and 56; results stay below 100."""
    sign = rng.choice("++++----*/")
    if sign == "*":
        a, b = rng.randint(2, 9), rng.randint(2, 9)
        return f"{a}*{b}", a * b
    if sign == "/":
        a, b = rng.randint(2, 9), rng.randint(2, 9)
        return f"{a * b}/{a}", b
    if sign == "+":
        a = rng.randint(1, 90)
        b = rng.randint(1, min(99 - a, MOST))
        return f"{a}+{b}", a + b
    a = rng.randint(3, 99)
    b = rng.randint(1, min(a - 1, MOST))
    return f"{a}-{b}", a - b


def make(rng: random.Random, level: int) -> Example:
    """Four to seven facts to work out."""
    facts = [fact(rng) for _ in range(rng.randint(4, 7))]
    prompt = "Work out: " + ", ".join(left for left, _ in facts)
    answer = "\n".join(f"{left}={right}" for left, right in facts)
    return Example("drill", prompt, answer, GEN_LENGTH, prompt)


def check(example: Example, text: str) -> bool:
    """Every line right."""
    return text.split() == example.answer.split()


TASK = Generator("drill", check, make)
