"""List operations: a chain of two or three on a short list of words or numbers, one line of working each.

Items are always preceded by a space, in the prompt and in the answer, so that a word is the same token in both.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from dkv.tiny import Example
from recipes.tiny.tasks.base import Generator
from recipes.tiny.tasks.vocabulary import THINGS

GEN_LENGTH = 64
Items = list[str]
Operation = Callable[[Items], Items]


def _unique(items: Items) -> Items:
    return list(dict.fromkeys(items))


def _swap(items: Items) -> Items:
    return [items[-1], *items[1:-1], items[0]]


SHARED: dict[str, Operation] = {
    "reverse": lambda items: items[::-1],
    "drop first": lambda items: items[1:],
    "drop last": lambda items: items[:-1],
    "rotate left": lambda items: [*items[1:], items[0]],
    "rotate right": lambda items: [items[-1], *items[:-1]],
    "swap ends": _swap,
    "unique": _unique,
    "every second": lambda items: items[::2],
}
FOR_NUMBERS: dict[str, Operation] = {
    "add one": lambda items: [str(int(n) + 1) for n in items],
}
FOR_WORDS: dict[str, Operation] = {
    "double": lambda items: [item for item in items for _ in range(2)],
    "first three": lambda items: items[:3],
}
EASY = ("reverse", "drop first", "drop last", "rotate left", "swap ends", "add one", "first three")


def _items(rng: random.Random, numbers: bool, count: int) -> Items:
    """`count` words, or two-digit numbers, sometimes repeated."""
    pool = [str(n) for n in range(10, 99)] if numbers else list(THINGS)
    items = rng.sample(pool, count)
    if rng.random() < 0.3 and count > 3:
        items[rng.randrange(count)] = rng.choice(items)
    return items


def _steps(rng: random.Random, items: Items, known: dict[str, Operation], count: int) -> list[tuple[str, Items]]:
    """`count` different operations applied in turn, with the list after each; never fewer than two items."""
    steps: list[tuple[str, Items]] = []
    names = rng.sample(sorted(known), len(known))
    while names and len(steps) < count:
        name = names.pop()
        after = known[name](items)
        if 2 <= len(after) <= 6:
            steps.append((name, after))
            items = after
    return steps


def make(rng: random.Random, level: int) -> Example:
    """A list and a chain of operations; the answer shows the list after each."""
    numbers = rng.random() < 0.4
    known = SHARED | (FOR_NUMBERS if numbers else FOR_WORDS)
    if level == 0:
        known = {name: op for name, op in known.items() if name in EASY}
    items = _items(rng, numbers, rng.randint(*((3, 4), (3, 5), (4, 5 - numbers))[level]))
    steps = _steps(rng, items, known, rng.choice(((1, 2), (2, 3), (2, 2, 3))[level]))
    shown = " ".join(items)
    chain = ", then ".join(name for name, _ in steps)
    wording = rng.choice(("List: {0}\nDo: {1}", "Take the list: {0}\nApply: {1}", "Do: {1}\nList: {0}"))
    answer = "\n".join(f"{name}: {' '.join(after)}" for name, after in steps)
    return Example("lists", wording.format(shown, chain), answer, GEN_LENGTH, f"{shown}|{chain}")


TASK = Generator.of("lists", make)
