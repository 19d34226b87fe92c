"""Answers from an engine in this process: lines join as others finish, so that the engine is never short of work."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

from dkv.batch.asking import Asking, named, read_line
from dkv.batch.records import Record, answer_record, error_record
from dkv.batch.source import Line
from dkv.engine import Engine
from dkv.errors import PromptError, SettingError
from dkv.lm import DiffusionLM

__all__ = ["answers", "engine_for"]


def engine_for(lm: DiffusionLM, batch_size: int) -> Engine:
    """An engine whose forwards have `batch_size` prompts; as many may wait, so that a place that falls free is taken
    at once."""
    return Engine(lm, active=batch_size, waiting=2 * batch_size)


def answers(
    engine: Engine, asking: Asking, lines: Iterable[Line], ahead: int, skip_bad: bool = False
) -> Iterator[list[Record]]:
    """The records that each step of the engine finished, often none. ahead: lines in the engine at once; skip_bad: a
    line that cannot be asked is answered by its error. Raises SettingError naming the line otherwise."""
    todo, asked = iter(lines), dict[int, tuple[int, str | int]]()
    while True:
        new = list(islice(todo, ahead - len(asked)))
        done = [bad for line in new if (bad := _join(engine, asking, line, asked, skip_bad)) is not None]
        done += [
            answer_record(*asked.pop(update.ticket), update.generation)
            for update in engine.step()
            if update.generation is not None
        ]
        yield done
        if not new and not asked:
            return


def _join(
    engine: Engine, asking: Asking, line: Line, asked: dict[int, tuple[int, str | int]], skip_bad: bool
) -> Record | None:
    """Add a line to the engine and to `asked`, its number and name by ticket; its error record where it is bad."""
    name: str | int = line.number
    try:
        read = read_line(line)
        name = read.name
        asked[engine.add(asking.request(read))] = line.number, name
    except (SettingError, PromptError) as error:
        if not skip_bad:
            raise named(line, error) from None
        return error_record(line.number, name, error)
    return None
