"""Many prompts from a file, their answers to a file: nothing that was finished is lost, repeated or done again.

source.py reads the lines, job_line.py makes requests of them, local_runner.py has an engine answer them, results.py
keeps the answers, job.py ties it together. A line's number is its name throughout, and its seed follows from it, so
that neither order nor interruption changes an answer.
"""

from __future__ import annotations

__all__: list[str] = []
