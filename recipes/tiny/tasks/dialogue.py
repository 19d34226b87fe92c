"""A conversation over several turns: an order is placed, then changed, and each reply repeats the order as it stands.

The last reply is asked for. It follows from the turns before it: what was added, left out or changed since.
"""

from __future__ import annotations

import random

from dkv.tiny import Example
from recipes.tiny.tasks.base import Generator
from recipes.tiny.tasks.vocabulary import ITEMS

GEN_LENGTH = 64
Order = dict[str, int]


def shown(order: Order) -> str:
    """The order, an item a line."""
    return "\n".join(f"- {count} {item}" for item, count in order.items())


def _listed(order: Order) -> str:
    words = [f"{count} {item}" for item, count in order.items()]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _drawn(rng: random.Random, count: int, without: Order) -> Order:
    items = rng.sample([item for item in ITEMS if item not in without], count)
    return {item: rng.randint(2, 30) for item in items}


def _add(rng: random.Random, order: Order) -> tuple[str, Order]:
    more = _drawn(rng, rng.randint(1, 2), order)
    wording = rng.choice(("Please add {}.", "Add {} to it.", "I also need {}.", "And {} too."))
    return wording.format(_listed(more)), order | more


def _leave_out(rng: random.Random, order: Order) -> tuple[str, Order]:
    item = rng.choice(list(order))
    wording = rng.choice(("Leave out the {}.", "No {} after all.", "Please remove the {}."))
    return wording.format(f"{order[item]} {item}"), {name: count for name, count in order.items() if name != item}


def _change(rng: random.Random, order: Order) -> tuple[str, Order]:
    item = rng.choice(list(order))
    count = rng.choice([n for n in range(2, 31) if n != order[item]])
    wording = rng.choice(("Make the {} {}.", "Instead of the {} I need {}.", "Change the {} to {}."))
    return wording.format(f"{order[item]} {item}", f"{count} {item}"), order | {item: count}


def _edit(rng: random.Random, order: Order) -> tuple[str, Order]:
    """One change that leaves two to six items. What is changed is named with its count, as it was last repeated."""
    kinds = [_change] + [_add] * (2 if len(order) < 5 else 0) + [_leave_out] * (len(order) > 2)
    return rng.choice(kinds)(rng, order)


def make(rng: random.Random, level: int) -> Example:
    """An order and one to three changes of it; the reply to the last."""
    order = _drawn(rng, rng.randint(2, (3, 4, 4)[level]), {})
    opening = rng.choice(("I would like {}.", "Hello, I want {}.", "Order {}, please.", "Can I have {}?"))
    said, history = opening.format(_listed(order)), list[tuple[str, str]]()
    for _ in range(rng.randint(*((0, 1), (1, 2), (1, 3))[level])):
        history += [("user", said), ("assistant", shown(order))]
        said, order = _edit(rng, order)
    key = "|".join([*(text for role, text in history if role == "user"), said])
    return Example("dialogue", said, shown(order), GEN_LENGTH, key, history=tuple(history))


TASK = Generator.of("dialogue", make)
