"""A batch job: the input is checked, what is finished is found, the rest is answered and kept as it comes."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dkv.checkpoints.fingerprint import fingerprint
from dkv.distributed.ray_cluster import cluster
from dkv.errors import PromptError, SettingError
from dkv.jobs.job_line import Asking, named, read_line
from dkv.jobs.local_runner import answers, engine_for
from dkv.jobs.progress import JobProgress
from dkv.jobs.ray_data import RaySpread
from dkv.jobs.records import Record
from dkv.jobs.results import Results, begun_with
from dkv.jobs.source import Source, SourceLine
from dkv.layers.quantized import check_kind
from dkv.loading import check_model, compiled_as, find_device, find_dtype, find_model, load
from dkv.version import installed_version

__all__ = ["Job", "JobOptions"]


@dataclass(frozen=True)
class JobOptions:
    """A batch job as it was asked for. arguments: of `lm.request`, seed left out; seed: the job's, None = that of the
    run that is gone on with, else drawn; batch_size: prompts in the engine's forwards at once; skip_bad: a bad line
    becomes an error record, where else it stops the job before anything is run; ray: spread it over so many `workers`
    (None = one for each GPU, without any two)."""

    input: Path
    output: Path
    arguments: Mapping[str, Any]
    model: str = "tiny"
    device: str = "auto"
    dtype: str = "auto"
    seed: int | None = None
    batch_size: int = 32
    skip_bad: bool = False
    ray: bool = False
    workers: int | None = None
    quantize: str | None = None
    compile: bool = False

    def __post_init__(self) -> None:
        for name, value in (("batch_size", self.batch_size), ("workers", self.workers)):
            if value is not None and (type(value) is not int or value < 1):
                raise SettingError(f"{name}={value!r} must be a whole number of at least 1")
        check_kind(self.quantize)
        if self.workers is not None and not self.ray:
            raise SettingError(f"workers={self.workers} needs ray; give --ray, or leave workers out")


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
        lm = load(
            wanted.model, device=wanted.device, dtype=wanted.dtype, quantize=wanted.quantize, compile=wanted.compile
        )
        asking = Asking(lm, wanted.arguments, self.seed)
        asking.check_job()
        if self._new and not wanted.skip_bad:
            for line in self.source.lines():
                asking.check(line)
        engine = engine_for(asking.lm, wanted.batch_size)
        yield answers(engine, asking, self._todo(), 2 * wanted.batch_size, wanted.skip_bad)

    @contextmanager
    def _spread(self) -> Iterator[Iterator[list[Record]]]:
        wanted, left = self._wanted, self.source.count - self.results.count
        spread = RaySpread(
            wanted.model, self._device, self._dtype, wanted.arguments, self.seed, wanted.batch_size, wanted.workers,
            wanted.quantize, wanted.compile,
        )  # fmt: skip
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
        "version": installed_version(),
    }
    return dict(json.loads(json.dumps(header)))
