"""A batch job: the input is checked, what is finished is found, the rest is answered and kept as it comes."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from dkv.checkpoints.weight_files import fingerprint
from dkv.distributed.ray_cluster import cluster
from dkv.errors import PromptError, SettingError
from dkv.jobs.job_line import Asking, named, read_line
from dkv.jobs.local_runner import answers, engine_for
from dkv.jobs.ray_data import RaySpread
from dkv.jobs.records import Record, failure_of, tokens_of
from dkv.jobs.results import Results, begun_with
from dkv.jobs.source import JobOptions, Source, SourceLine
from dkv.loading import check_model, compiled_as, find_device, find_dtype, find_model
from dkv.version import VERSION

__all__ = ["Job", "JobProgress"]


@dataclass
class JobProgress:
    """How far a batch job is, how fast it goes, and how long it will take."""

    total: int  # prompts of the input
    before: int = 0  # those that an earlier run finished
    done: int = 0  # those of this run, errors included
    failed: int = 0
    tokens: int = 0  # new ones of this run
    steps: int = 0  # of the engine in this run; on Ray, chunks that came
    clock: Callable[[], float] = time.monotonic  # seconds
    began: float = field(init=False)

    def __post_init__(self) -> None:
        self.began = self.clock()

    def add(self, records: Sequence[Record]) -> None:
        """Count finished records."""
        self.done += len(records)
        self.failed += sum(failure_of(record) is not None for record in records)
        self.tokens += sum(tokens_of(record) for record in records)

    @property
    def finished(self) -> int:
        """Prompts that are finished, by this run or before."""
        return self.before + self.done

    @property
    def share(self) -> float:
        """Of the whole job."""
        return self.finished / self.total

    @property
    def seconds(self) -> float:
        """Since this run began."""
        return self.clock() - self.began

    @property
    def left(self) -> float | None:
        """Seconds to the end at this run's pace; None before there is one."""
        return self.seconds / self.done * (self.total - self.finished) if self.done else None

    @property
    def rates(self) -> tuple[float, float]:
        """Prompts and new tokens a second, in this run."""
        seconds = self.seconds
        return (self.done / seconds, self.tokens / seconds) if seconds else (0.0, 0.0)


class Job:
    """A batch job about to run, or to go on. A context manager that closes the output.

    Raises SettingError, SpecError, CheckpointError.
    """

    def __init__(self, wanted: JobOptions) -> None:
        self._wanted = wanted
        self.source = Source(wanted.input, _ignore if wanted.skip_bad else _check_form)
        begun = begun_with(wanted.output)
        header = _header(wanted, self.source.digest, begun)
        self.seed: int = header["seed"]
        self._device, self._dtype = header["device"], header["dtype"]
        self._new = begun is None
        self.results = Results(wanted.output, self.source.last, header)

    def __enter__(self) -> Job:
        return self

    def __exit__(self, *error: Any) -> None:
        self.results.__exit__(*error)

    def run(self, tell: Callable[[JobProgress], None]) -> JobProgress:
        """Answer what is missing. tell: called after each step. Raises SettingError for a bad line or a full disk."""
        progress = JobProgress(self.source.count, self.results.count)
        if progress.finished == progress.total:
            return progress
        with self._crew() as crew:
            progress = JobProgress(self.source.count, self.results.count)  # the clock starts once the model is there
            for records in crew:
                self.results.put(records)
                progress.add(records)
                progress.steps += 1
                tell(progress)
        return progress

    @contextmanager
    def _crew(self) -> Iterator[Iterator[list[Record]]]:
        """Who answers what is missing, after a check of all lines by the job's first run."""
        if self._wanted.ray:
            with self._spread() as crew:
                yield crew
            return
        wanted = self._wanted
        asking = Asking(wanted.load(), wanted.arguments, self.seed)
        asking.check_job()
        if self._new and not wanted.skip_bad:
            for line in self.source.lines():
                asking.check(line)
        engine = engine_for(asking.lm, wanted.batch_size)
        yield answers(engine, asking, self._todo(), 2 * wanted.batch_size, wanted.skip_bad)

    @contextmanager
    def _spread(self) -> Iterator[Iterator[list[Record]]]:
        wanted, left = self._wanted, self.source.count - self.results.count
        spread = RaySpread(replace(wanted, device=self._device, dtype=self._dtype), self.seed)
        check_model(wanted.model)  # Ray takes a minute to start
        with cluster():
            if self._new and not wanted.skip_bad:
                spread.check(self.source.lines())
            yield spread.answers(self._todo(), left, wanted.skip_bad)

    def _todo(self) -> Iterator[SourceLine]:
        return (line for line in self.source.lines() if line.number not in self.results)


def _check_form(line: SourceLine) -> None:
    try:
        read_line(line)
    except (SettingError, PromptError) as error:
        raise named(line.number, error) from None


def _ignore(line: SourceLine) -> None:
    """A bad line will be answered by its error."""


def _header(wanted: JobOptions, digest: str, begun: Mapping[str, Any] | None) -> dict[str, Any]:
    """What all answers of the job are made with, as JSON gives it back."""
    device = find_device(wanted.device)
    seed = wanted.seed
    if seed is None:
        seed = secrets.randbits(32) if begun is None else begun["seed"]
    header = {
        "input": digest,
        "model": wanted.model,
        "fingerprint": fingerprint(find_model(wanted.model)),
        "device": device.type,
        "dtype": str(find_dtype(wanted.dtype, device)).removeprefix("torch."),
        "quantize": wanted.quantize,
        **compiled_as(wanted.compile),
        "seed": seed,
        **wanted.arguments,
        "version": VERSION,
    }
    return dict(json.loads(json.dumps(header)))
