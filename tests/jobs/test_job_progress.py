"""Rates and the time left, worked out by hand."""

from __future__ import annotations

from dkv.cli.batch import line_of
from dkv.jobs.job import JobProgress


def test_the_pace_is_this_run_s() -> None:
    now = [100.0]
    progress = JobProgress(total=10, before=4, clock=lambda: now[0])
    assert (progress.left, progress.rates, progress.share) == (None, (0.0, 0.0), 0.4)
    now[0] = 104.0
    progress.add([{"line": 1, "new_tokens": 30}, {"line": 2, "error": "x"}])
    assert (progress.finished, progress.done, progress.failed) == (6, 2, 1)
    assert progress.rates == (0.5, 7.5)
    assert progress.left == 8.0  # four more, at 2 s each
    progress.add([{"line": n, "new_tokens": 0} for n in range(3, 7)])
    assert (progress.left, progress.share) == (0.0, 1.0)


def test_before_the_first_answer_the_steps_are_told() -> None:
    now = [100.0]
    progress = JobProgress(total=3, clock=lambda: now[0])
    progress.steps, now[0] = 41, 107.0
    assert line_of(progress) == "0 of 3 prompts, 41 steps in 7 s"
    progress.add([{"line": 1, "new_tokens": 35}])
    assert line_of(progress) == "1 of 3 prompts, 0.14 prompts/s, 5 tokens/s, 14 s left"
