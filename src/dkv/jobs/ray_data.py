"""A batch job spread over Ray Data workers (extra `ray`): each loads the model once and answers a chunk of lines at a
time. A worker that dies is started anew and its chunk is answered again, with the same seeds.

Workers get the lines themselves, so they need not see the input file; the results are kept by the caller alone.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from dkv.distributed.ray_cluster import TRIES, one_line, share_of, workers_for
from dkv.errors import EngineError, SettingError
from dkv.jobs.job_line import Asking
from dkv.jobs.local_runner import answers, engine_for
from dkv.jobs.records import Record, failed_on_the_way, failure_of, number_of
from dkv.jobs.source import JobOptions, SourceLine
from dkv.storage.extras import module_of

__all__ = ["RaySpread"]

_CHUNKS = 4
"""Of each worker, at least, where there are lines enough: so that none waits long for the others at the end."""

_BATCHES = 8
"""Of a chunk, at most: it is what a dead worker loses, and how often progress is seen."""


@dataclass(frozen=True)
class RaySpread:
    """A job to be spread over workers."""

    wanted: JobOptions  # with the device and the dtype that were found here, the same for every worker
    seed: int

    def asking(self) -> Asking:
        """The job with its model, loaded here."""
        return Asking(self.wanted.load(), self.wanted.arguments, self.seed)

    def check(self, lines: Iterable[SourceLine]) -> None:
        """Have a worker check all lines, so that the model is not loaded here. Raises SettingError."""
        ray = module_of("ray", "ray")
        chunks = list(_put(lines, _BATCHES * self.wanted.batch_size))
        task = ray.remote(_first_error).options(**share_of(self._count, self.wanted.device), max_retries=TRIES)
        error = _got(lambda: ray.get(task.remote(self, chunks)))
        if error is not None:
            raise SettingError(error)

    def answers(self, lines: Iterable[SourceLine], total: int, skip_bad: bool = False) -> Iterator[list[Record]]:
        """Records as workers finish them, a chunk at a time. total: how many lines there are, about; else as
        `local.answers`. Raises SettingError, and EngineError where workers die again and again."""
        size = min(_BATCHES * self.wanted.batch_size, math.ceil(total / (_CHUNKS * self._count)))
        made = iter(self._workers(list(_put(lines, max(1, size)))))
        while (chunk := _got(lambda: next(made, None))) is not None:
            records = [json.loads(text) for text in chunk["record"].to_pylist()]
            bad = next((one for one in records if failure_of(one) is not None and not failed_on_the_way(one)), None)
            if bad is not None and not skip_bad:
                raise SettingError(f"input: line {number_of(bad)}: {failure_of(bad)}")
            yield records

    def _workers(self, chunks: list[Any]) -> Any:
        """What Ray makes of the chunks, one after the other as they come."""
        data, count = module_of("ray", "ray.data"), self._count
        asked = data.from_arrow_refs(chunks)
        asked.context.enable_progress_bars = asked.context.print_on_execution_start = False
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the two maxima: Ray 2.60 has no other way to give them
            made = asked.map_batches(
                _Worker,
                fn_constructor_args=(self,),
                batch_size=None,
                batch_format="pyarrow",
                compute=data.ActorPoolStrategy(size=count),
                max_restarts=TRIES,
                max_task_retries=TRIES,
                **share_of(count, self.wanted.device),
            )
        return made.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)

    @property
    def _count(self) -> int:
        return workers_for("workers", self.wanted.workers, self.wanted.device)


class _Worker:
    """An actor: a model and its engine, asked for chunk after chunk."""

    def __init__(self, spread: RaySpread) -> None:
        self._asking, self._size = spread.asking(), spread.wanted.batch_size
        self._engine = engine_for(self._asking.lm, self._size)

    def __call__(self, chunk: Any) -> Any:
        """A column `record` of JSON for the columns `number` and `text`."""
        made = answers(self._engine, self._asking, _lines(chunk), 2 * self._size, skip_bad=True)
        return _table(record=[json.dumps(record) for records in made for record in records])


def _table(**columns: list[Any]) -> Any:
    return module_of("ray", "pyarrow").table(columns)


def _put(lines: Iterable[SourceLine], size: int) -> Iterator[Any]:
    """Lines in Ray's store, which moves to the disk what memory does not hold."""
    ray, todo = module_of("ray", "ray"), iter(lines)
    while chunk := list(islice(todo, size)):
        yield ray.put(_table(number=[line.number for line in chunk], text=[line.text for line in chunk]))


def _lines(chunk: Any) -> Iterator[SourceLine]:
    for row in chunk.to_pylist():
        yield SourceLine(row["number"], row["text"])


def _first_error(spread: RaySpread, chunks: list[Any]) -> str | None:
    """What is wrong with the job or, of its lines, with the first bad one; None if nothing is."""
    ray, asking = module_of("ray", "ray"), spread.asking()
    try:
        asking.check_job()
        for chunk in chunks:
            for line in _lines(ray.get(chunk)):
                asking.check(line)
    except SettingError as error:
        return str(error)
    return None


def _got(call: Callable[[], Any]) -> Any:
    """What Ray gives. Raises EngineError in one line where its workers fail."""
    try:
        return call()
    except module_of("ray", "ray.exceptions").RayError as error:
        raise EngineError(f"ray: the workers failed ({one_line(error)}); what is finished is kept") from None
