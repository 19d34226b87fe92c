"""Answers from an engine in this process: lines join as others finish, so that the engine is never short of work."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dkv.engine import Engine
from dkv.errors import PromptError, RequestError, SettingError
from dkv.jobs.job_line import Asking, JobLine, named, read_line
from dkv.jobs.openai_lines import OpenAILine, custom_id_in, openai_error
from dkv.jobs.records import Record, error_record, failure_record
from dkv.jobs.source import SourceLine
from dkv.lm import DiffusionLM

if TYPE_CHECKING:
    from dkv.engine import Request
    from dkv.outputs import Generation

__all__ = ["answers", "engine_for"]


def engine_for(lm: DiffusionLM, batch_size: int) -> Engine:
    """An engine whose forwards have `batch_size` prompts; as many may wait, so that a place that falls free is taken
    at once."""
    return Engine(lm, active=batch_size, waiting=2 * batch_size)


@dataclass(eq=False)
class _Pending:
    """A line whose requests are under way."""

    asked: JobLine | OpenAILine
    requests: Sequence[Request]
    generations: dict[int, Generation] = field(default_factory=dict)  # of the requests that are done, by index


def answers(
    engine: Engine, asking: Asking, lines: Iterable[SourceLine], ahead: int, skip_bad: bool = False
) -> Iterator[list[Record]]:
    """The records that each step of the engine finished, often none. ahead: requests in the engine at once; skip_bad: a
    line that cannot be asked is answered by its error; one that fails on the way always is. Raises SettingError naming
    the line otherwise."""
    crew, todo = _Crew(engine, asking, skip_bad), iter(lines)
    while True:
        done = list[Record]()
        is_over = crew.fill(todo, ahead, done)
        for update in engine.step():
            if update.generation is not None:
                done += crew.take(update.request_id, update.generation)
            elif update.error is not None:  # it was sound, and failed on the way
                done += crew.fail(update.request_id, update.error)
        yield done
        if is_over and not crew.running:
            return


class _Crew:
    """The requests of lines: those in the engine, by id, and those of the last line that found no room yet."""

    def __init__(self, engine: Engine, asking: Asking, skip_bad: bool) -> None:
        self._engine, self._asking, self._skip_bad = engine, asking, skip_bad
        self._waiting = deque[tuple[_Pending, int]]()
        self.running = dict[int, tuple[_Pending, int]]()

    def fill(self, todo: Iterator[SourceLine], ahead: int, done: list[Record]) -> bool:
        """Fill the engine up to `ahead` requests; bad lines go to `done`. Whether all lines were taken."""
        while len(self.running) + len(done) < ahead:
            if self._waiting:
                done += self._join(*self._waiting.popleft())
            elif (line := next(todo, None)) is None:
                return True
            else:
                done += self._read(line)
        return False

    def take(self, request_id: int, generation: Generation) -> list[Record]:
        """Note what a request came to; the record of its line, once that is whole."""
        pending, index = self.running.pop(request_id)
        pending.generations[index] = generation
        if len(pending.generations) < len(pending.requests):
            return []
        whole = [pending.generations[n] for n in range(len(pending.requests))]
        return [self._asking.record(pending.asked, pending.requests, whole)]

    def fail(self, request_id: int, error: Exception) -> list[Record]:
        """Note that a request failed on the way, and its line with it; the line's record."""
        pending, _ = self.running.pop(request_id)
        self._drop(pending)
        return [_failed(pending.asked, error)]

    def _join(self, pending: _Pending, index: int) -> list[Record]:
        try:
            self.running[self._engine.add(pending.requests[index])] = pending, index
        except SettingError as error:  # it could never fit
            self._drop(pending)
            return [self._refused(pending.asked.line, pending.asked, error)]
        except RequestError as error:
            self._drop(pending)
            return [_failed(pending.asked, error)]
        return []

    def _read(self, line: SourceLine) -> list[Record]:
        asked: JobLine | OpenAILine | None = None
        try:
            asked = read_line(line)
            requests = self._asking.requests(asked)
        except (SettingError, PromptError) as error:
            return [self._refused(line.number, asked, error, line.text)]
        pending = _Pending(asked, requests)
        self._waiting.extend((pending, index) for index in range(len(requests)))
        return []

    def _refused(self, number: int, asked: JobLine | OpenAILine | None, error: Exception, text: bytes = b"") -> Record:
        """The record of a bad line, of which `text` is given where it could not be read. Raises SettingError where such
        a line ends the job."""
        if not self._skip_bad:
            raise named(number, error) from None
        name = asked.name if isinstance(asked, OpenAILine) else custom_id_in(text)
        if isinstance(name, str):
            return openai_error(number, name, error)
        return error_record(number, number if asked is None else asked.name, error)

    def _drop(self, pending: _Pending) -> None:
        """Give up a line's other requests."""
        for request_id in [request_id for request_id, (whose, _) in self.running.items() if whose is pending]:
            self._engine.cancel(request_id)
            del self.running[request_id]
        self._waiting = deque((whose, index) for whose, index in self._waiting if whose is not pending)


def _failed(asked: JobLine | OpenAILine, error: Exception) -> Record:
    """The record of a sound line whose answer failed."""
    if isinstance(asked, OpenAILine):
        return openai_error(asked.line, asked.name, error)
    return failure_record(asked.line, asked.name, error)
