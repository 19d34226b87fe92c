"""Arithmetic word problems, worked a line at a time and ending `#### 42` (GSM8K's form, our own text).

Every result is below 100 and what is added or taken away at once is at most 9, so that some two thousand facts cover
every line: a model of this size learns those, not long sums. The difficulty is to find the operands in the story and to
chain the lines.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, field

from dkv.tiny import Example
from recipes.tiny.tasks.base import Generator
from recipes.tiny.tasks.vocabulary import HOLDERS, ITEMS, NAMES

GEN_LENGTH = 64
LIMIT = 99
MOST = 9  # added or taken away at once


@dataclass
class Story:
    """A problem being told: its sentences, its worked lines, and the running total."""

    name: str
    friend: str
    item: str
    rng: random.Random
    said: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    total: int = 0

    def tell(self, *wordings: str) -> None:
        """Add one of the wordings as the next sentence."""
        self.said.append(self.rng.choice(wordings))

    def work(self, left: int, sign: str, right: int) -> int:
        """Write one line of working and return its result."""
        result = {"+": left + right, "-": left - right, "*": left * right, "/": left // max(right, 1)}[sign]
        self.lines.append(f"{left}{sign}{right}={result} {self.item}")
        return result


def _start_plain(s: Story, level: int) -> None:
    s.total = s.rng.randint(5, (20, 60, 70)[level])
    n = s.total
    s.tell(f"{s.name} has {n} {s.item}.", f"{s.name} starts the day with {n} {s.item}.",
           f"There are {n} {s.item} on the desk of {s.name}.", f"{s.name} owns {n} {s.item}.")  # fmt: skip


def _start_groups(s: Story, level: int) -> None:
    a, b = s.rng.randint(2, 9), s.rng.randint(2, (5, 9, 9)[level])
    holder = s.rng.choice(HOLDERS)
    s.tell(f"{s.name} has {a} {holder} with {b} {s.item} in each.",
           f"{s.name} fills {a} {holder} with {b} {s.item} each.",
           f"In the shop of {s.name} there are {a} {holder} of {b} {s.item}.",
           f"{s.name} buys {a} {holder} of {b} {s.item}.")  # fmt: skip
    s.total = s.work(a, "*", b)


def _start_times(s: Story, level: int) -> None:
    a, b = s.rng.randint(2, 9), s.rng.randint(2, (5, 9, 9)[level])
    s.tell(f"{s.friend} has {a} {s.item} and {s.name} has {b} times as many.",
           f"{s.friend} found {a} {s.item}. {s.name} found {b} times that number.")  # fmt: skip
    s.total = s.work(a, "*", b)


def _start_compare(s: Story, level: int) -> None:
    a = s.rng.randint(4, s.rng.choice((MOST, (15, 60, 70)[level])))
    if s.rng.random() < 0.5:
        b = s.rng.randint(2, MOST)
        s.tell(f"{s.friend} has {a} {s.item} and {s.name} has {b} more than {s.friend}.",
               f"{s.friend} picks {a} {s.item}. {s.name} picks {b} more.")  # fmt: skip
        s.total = s.work(a, "+", b)
    else:
        b = s.rng.randint(2, min(a - 2, MOST))
        s.tell(f"{s.friend} has {a} {s.item} and {s.name} has {b} fewer than {s.friend}.",
               f"{s.friend} picks {a} {s.item}. {s.name} picks {b} fewer.")  # fmt: skip
        s.total = s.work(a, "-", b)


def _gain(s: Story, level: int) -> None:
    n = s.rng.randint(2, min(LIMIT - s.total, MOST))
    s.tell(f"Then {s.friend} gives {s.name} {n} more.", f"Later {s.name} finds {n} more {s.item}.",
           f"{s.name} gets {n} more from a neighbor.", f"The next day {s.name} buys {n} more {s.item}.",
           f"A box with {n} more {s.item} arrives.")  # fmt: skip
    s.total = s.work(s.total, "+", n)


def _lose(s: Story, level: int) -> None:
    n = s.rng.randint(1, min(s.total - 2, MOST))
    s.tell(f"Then {s.name} gives {n} to {s.friend}.", f"Later {s.name} loses {n} of them.",
           f"{s.name} sells {n} {s.item}.", f"Sadly {n} of the {s.item} are broken and thrown away.",
           f"{s.friend} borrows {n} {s.item}.")  # fmt: skip
    s.total = s.work(s.total, "-", n)


def _gain_groups(s: Story, level: int) -> None:
    pairs = [(a, b) for a in range(2, 10) for b in range(2, 10) if s.total + a * b <= LIMIT and a * b <= MOST]
    a, b = s.rng.choice(pairs)
    holder = s.rng.choice(HOLDERS)
    s.tell(f"Then {s.name} adds {a} {holder} of {b} {s.item}.",
           f"{s.friend} brings {a} {holder} with {b} {s.item} each.",
           f"Later {s.name} buys {a} {holder} with {b} in each.")  # fmt: skip
    s.total = s.work(s.total, "+", s.work(a, "*", b))


def _lose_groups(s: Story, level: int) -> None:
    pairs = [(a, b) for a in range(2, 10) for b in range(2, 10) if a * b <= min(s.total - 1, MOST)]
    a, b = s.rng.choice(pairs)
    s.tell(f"{s.name} gives {b} {s.item} to each of {a} friends.", f"Then {a} children take {b} {s.item} each.",
           f"{s.name} uses {b} {s.item} a day for {a} days.")  # fmt: skip
    s.total = s.work(s.total, "-", s.work(a, "*", b))


def _share(s: Story, level: int) -> None:
    parts = [k for k in range(2, 10) if s.total % k == 0 and 2 <= s.total // k <= 9]
    k = s.rng.choice(parts)
    s.tell(f"{s.name} then shares them equally among {k} friends.", f"They are split evenly into {k} piles.",
           f"{s.name} puts the same number into each of {k} drawers.")  # fmt: skip
    s.total = s.work(s.total, "/", k)


def first_number(s: Story) -> int:
    """The left operand of the first line: what the friend of a comparison has."""
    return int(re.split(r"[+\-*]", s.lines[0])[0])


def _together(s: Story, level: int) -> None:
    other = first_number(s)
    s.tell(f"They put their {s.item} together.", f"{s.name} and {s.friend} pool what they have.")
    s.total = s.work(s.total, "+", other)


def _middle(s: Story, level: int) -> None:
    """One event that keeps the total between 1 and 99."""
    moves = [_gain] if s.total <= LIMIT - 10 else []
    moves += [_lose] if s.total >= 4 else []
    moves += [_gain_groups] if level > 0 and s.total <= LIMIT - 10 else []
    moves += [_lose_groups] if level > 0 and s.total >= 12 else []
    s.rng.choice(moves)(s, level)


def _finish(s: Story, starter: str) -> str:
    """A closing event for some stories, and the question."""
    shareable = [k for k in range(2, 10) if s.total % k == 0 and 2 <= s.total // k <= 9]
    if shareable and len(s.lines) < 4 and s.rng.random() < 0.5:
        _share(s, 2)
        return s.rng.choice((f"How many {s.item} are in each share?", "How many does each share hold?"))
    if starter == "_start_compare" and len(s.lines) == 1 and first_number(s) <= MOST:
        _together(s, 2)
        return s.rng.choice((f"How many {s.item} are there in all?", "How many do they have together?"))
    return s.rng.choice((f"How many {s.item} does {s.name} have now?", f"How many {s.item} are left in the end?",
                         f"What is the final number of {s.item}?", f"How many {s.item} is that?"))  # fmt: skip


def make(rng: random.Random, level: int) -> Example:
    """A story of one start, one to three events and a question."""
    name, friend = rng.sample(NAMES, 2)
    story = Story(name, friend, rng.choice(ITEMS), rng)
    starters = (_start_plain, _start_groups, _start_times, _start_compare)
    start = rng.choice(starters[:2] if level == 0 else starters)
    start(story, level)
    # a plain start has no line of its own, so it takes one event more
    events = rng.randint(0, 1 if level == 0 else 2) + (start is _start_plain)
    for _ in range(events):
        if len(story.lines) < 3:
            _middle(story, level)
    question = _finish(story, start.__name__)
    if len(story.lines) < 2 and level == 2:
        return make(rng, level)
    answer = "\n".join([*story.lines, f"#### {story.total}"])
    # names and wording do not change a problem: the worked lines without the noun are its essence
    key = " ".join(line.split(" ")[0] for line in story.lines)
    return Example("words", " ".join([*story.said, question]), answer, GEN_LENGTH, key)


TASK = Generator.of("words", make)
