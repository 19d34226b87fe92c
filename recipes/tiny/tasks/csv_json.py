"""CSV to JSON and JSON to CSV, for tables of two or three columns and up to three rows."""

from __future__ import annotations

import json
import random

from dkv.tiny import Example
from recipes.tiny.tasks.base import Generator
from recipes.tiny.tasks.vocabulary import CITIES, COLORS, NAMES, THINGS

GEN_LENGTH = 64
COLUMNS: dict[str, tuple[str, ...]] = {
    "name": tuple(name.lower() for name in NAMES),
    "city": tuple(city.lower() for city in CITIES),
    "item": THINGS,
    "color": COLORS,
    "gift": THINGS,
    "age": tuple(str(n) for n in range(10, 100)),
    "price": tuple(str(n) for n in range(2, 1000)),
    "count": tuple(str(n) for n in range(1, 100)),
}
Row = dict[str, str]


def _table(rng: random.Random, level: int) -> list[Row]:
    columns = rng.sample(sorted(COLUMNS), rng.randint(2, 2 if level == 0 else 3))
    most = (1, 2, 3 if len(columns) == 2 else 2)[level]
    rows = rng.randint(1 if level < 2 else 2, most)
    return [{name: rng.choice(COLUMNS[name]) for name in columns} for _ in range(rows)]


def _as_csv(table: list[Row]) -> str:
    return "\n".join([",".join(table[0]), *(",".join(row.values()) for row in table)])


def _as_json(table: list[Row]) -> str:
    # every value is a string, as in the CSV, so that nothing is guessed; no spaces, so that words are the same tokens
    return json.dumps(table, separators=(",", ":"))


def make(rng: random.Random, level: int) -> Example:
    """A table in one format, to be written in the other."""
    table = _table(rng, level)
    if rng.random() < 0.5:
        wording = rng.choice(("Convert this CSV to JSON:\n", "Write as JSON:\n", "CSV to JSON.\n"))
        source, answer = _as_csv(table), _as_json(table)
    else:
        wording = rng.choice(("Convert this JSON to CSV:\n", "Write as CSV:\n", "JSON to CSV.\n"))
        source, answer = _as_json(table), _as_csv(table)
    return Example("convert", wording + source, answer, GEN_LENGTH, _as_csv(table))


TASK = Generator.of("convert", make)
