"""Look-ups in a long prompt (LongBench's form): which person has an item, and where that person lives.

Facts come in shuffled order among idle sentences, up to about 1,500 tokens; the answer writes out both hops, so the
second look-up starts from the result of the first.
"""

from __future__ import annotations

import random

from dkv.tiny import Example
from recipes.tiny.tasks.base import Generator
from recipes.tiny.tasks.vocabulary import CITIES, NAMES, THINGS

GEN_LENGTH = 64
IDLE = (
    "The office is closed on Monday.",
    "Please keep the door shut at night.",
    "It rained for most of the week.",
    "Lunch is served at noon in the hall.",
    "Nobody has seen the gray cat since May.",
    "The train was late again this morning.",
    "A new map hangs on the wall near the stairs.",
    "All visitors must sign the book.",
)


def people(rng: random.Random, count: int) -> list[str]:
    """`count` different people; beyond the plain names, a name with an initial, which makes look-alikes."""
    if count <= len(NAMES) // 2:
        return rng.sample(NAMES, count)
    return rng.sample([f"{name} {initial}" for name in NAMES for initial in "ABCD"], count)


def _size(rng: random.Random, level: int) -> tuple[int, int]:
    """How many items there are, and how many idle sentences stand among the facts."""
    if level == 0:
        return rng.randint(2, 4), 0
    if level == 1 or rng.random() < 0.80:
        return rng.randint(3, 8), rng.choice((0, 0, 2, 4))
    if rng.random() < 0.75:
        return rng.randint(8, 20), rng.randint(0, 10)
    return rng.randint(20, 80), rng.randint(0, 40)


def make(rng: random.Random, level: int) -> Example:
    """A register of items and homes, and two or three items to trace."""
    keys, idle = _size(rng, level)
    things, owners = rng.sample(THINGS, keys), people(rng, keys)
    homes = [rng.choice(CITIES) for _ in owners]
    facts = [f"item {thing}: {owner}" for thing, owner in zip(things, owners, strict=True)]
    facts += [f"city {owner}: {home}" for owner, home in zip(owners, homes, strict=True)]
    facts += [rng.choice(IDLE) for _ in range(idle)]
    rng.shuffle(facts)
    asked = rng.sample(range(keys), min(keys, 2 if level == 0 else rng.randint(2, 3)))
    question = "Trace: " + ", ".join(things[i] for i in asked)
    prompt = "\n".join([question, *facts] if rng.random() < 0.5 else [*facts, question])
    answer = "\n".join(f"item {things[i]}: {owners[i]}\ncity {owners[i]}: {homes[i]}" for i in asked)
    key = "; ".join(f"{things[i]} {owners[i]} {homes[i]}" for i in asked)
    return Example("lookup", prompt, answer, GEN_LENGTH, key)


TASK = Generator.of("lookup", make)
