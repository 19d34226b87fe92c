"""`dkv generate --input`: the progress of a batch job, and how it ended."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.progress_bar import ProgressBar
from rich.text import Text

from dkv.cli.benchrun import spelled
from dkv.cli.console import printable, say_loading, stderr_console
from dkv.cli.live import keeping, region
from dkv.errors import SettingError

if TYPE_CHECKING:
    from dkv.jobs.job import Job, JobProgress

__all__ = ["line_of", "run_batch"]

_SECONDS_A_DRAWING = 0.2
_SECONDS_A_LINE = 10.0


def run_batch(output: Path | None, options: dict[str, Any]) -> None:
    """Run the job, or go on with it. options: the other fields of `JobOptions`, by name. Raises SettingError."""
    if output is None:
        raise SettingError("output: none is given; give --output FILE, or --output - for standard output")
    say_loading(options["model"])
    from dkv.jobs.job import Job
    from dkv.jobs.source import JobOptions

    with Job(JobOptions(output=output, **options)) as job:
        progress = _run(job)
    print(printable(f"{_counts(progress)} in {output} (seed {job.seed})"), file=sys.stderr)


def _run(job: Job) -> JobProgress:
    """Run it with its progress shown. Ctrl-C says what was kept, and then ends as it always does."""
    with (
        keeping(lambda: f"{job.results.count} results are in {job.results.output}"),
        region(stderr_console()) as show,
    ):
        told = time.monotonic()

        def tell(progress: JobProgress) -> None:
            nonlocal told
            if time.monotonic() - told < (_SECONDS_A_LINE if show is None else _SECONDS_A_DRAWING):
                return
            told = time.monotonic()
            if show is None:
                print(line_of(progress), file=sys.stderr, flush=True)
            else:
                # Nothing is finished for as long as the first answers take: until then it moves without an end.
                share = 100 * progress.share if progress.done else None
                bar = ProgressBar(total=None if share is None else 100, completed=share or 0, width=60)
                show(Group(Text(line_of(progress), no_wrap=True), bar))  # a bar does not end its line

        return job.run(tell)


def _counts(progress: JobProgress) -> str:
    """How much is done, and how fast it went."""
    prompts, tokens = progress.rates
    failed = f", {progress.failed} of them errors" if progress.failed else ""
    rates = f", {prompts:.2f} prompts/s, {tokens:.0f} tokens/s" if progress.done else ""
    return f"{progress.finished} of {progress.total} prompts{failed}{rates}"


def line_of(progress: JobProgress) -> str:
    """How far a job is, in one line: until something is finished, by its steps."""
    if not progress.done:
        return f"{_counts(progress)}, {progress.steps} steps in {spelled(progress.seconds)}"
    left = "" if progress.left is None else f", {spelled(progress.left)} left"
    return _counts(progress) + left
