"""A chat template in a process of its own, whose memory and time are limited: nothing that a template does can hang,
exhaust or abort the process that asks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, cast

import jinja2
import markupsafe

from dkv.errors import CheckpointError, PromptError
from dkv.tokenizer import template_sandbox
from dkv.tokenizer.template_sandbox import MEMORY, PROCESSOR_SECONDS

__all__ = ["TemplateProcess"]

_PATIENCE = 60.0
"""Seconds by the clock after which an answer is given up; only a process that gets no processor time takes as long."""


class TemplateProcess:
    """Renders conversations in a process that starts with the first one, and again after one that it did not survive.

    Safe to share between threads; a forked process starts one of its own.
    """

    def __init__(self, source: str, names: Mapping[str, Any]) -> None:
        self._source, self._names = source, dict(names)
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._owner = 0

    def __reduce__(self) -> tuple[type[TemplateProcess], tuple[str, dict[str, Any]]]:
        return TemplateProcess, (self._source, self._names)

    def render(self, messages: Sequence[Mapping[str, str]]) -> str:
        """The conversation as one string.

        Raises PromptError where the template fails on it, CheckpointError where the template cannot be compiled or
        exceeds a limit; both messages are the reason alone.
        """
        with self._lock:
            process = self._started()
            answer = self._asked(process, [dict(message) for message in messages])
        if "text" in answer:
            return answer["text"]
        if "error" in answer:
            raise PromptError(answer["error"])
        raise CheckpointError(answer.get("limit") or answer["unusable"])

    def close(self) -> None:
        """End the process, if there is one."""
        with self._lock:
            self._end()

    def _started(self) -> subprocess.Popen[str]:
        if self._process is not None and self._owner == os.getpid() and self._process.poll() is None:
            return self._process
        self._end()
        process = _spawn()
        self._process, self._owner = process, os.getpid()
        self._finalizer = weakref.finalize(self, _stop, process, self._owner)
        answer = self._asked(process, {"source": self._source, "names": self._names})
        if "ready" not in answer:
            self._end()
            raise CheckpointError(answer.get("unusable") or answer.get("limit") or "it cannot be run")
        return process

    def _asked(self, process: subprocess.Popen[str], question: object) -> dict[str, str]:
        """The answer to a question; one that says that a limit was exceeded where the process died of it."""
        asking, answering = cast("IO[str]", process.stdin), cast("IO[str]", process.stdout)
        timer = threading.Timer(_PATIENCE, process.kill)
        timer.daemon = True
        timer.start()
        try:
            asking.write(json.dumps(question) + "\n")
            asking.flush()
            line = answering.readline()
        except OSError:
            line = ""
        finally:
            timer.cancel()
        if line.endswith("\n"):
            answer: dict[str, str] = json.loads(line)
            return answer
        self._end()
        most = f"{PROCESSOR_SECONDS:g} s of processor time or {MEMORY >> 20} MB of memory"
        return {"limit": f"it takes more than {most}"}

    def _end(self) -> None:
        if self._process is not None:
            self._finalizer()
            self._process = None


def _spawn() -> subprocess.Popen[str]:
    """The process: this Python with jinja2 alone, no site packages, no environment of the caller's."""
    folders = {str(Path(module.__file__ or "").parent.parent): None for module in (jinja2, markupsafe)}
    code = "import sys, runpy; sys.path += sys.argv[2:]; runpy.run_path(sys.argv[1], run_name='__main__')"
    try:
        return subprocess.Popen(  # noqa: S603 - this file's own code; the template is its input
            [sys.executable, "-I", "-S", "-c", code, str(template_sandbox.__file__), *folders],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            encoding="ascii",
            env={name: os.environ[name] for name in ("SYSTEMROOT", "TZ") if name in os.environ},
            start_new_session=True,  # Ctrl-C ends it when this process ends, not before
        )
    except (OSError, ValueError) as error:
        raise CheckpointError(f"its process cannot be started ({error})") from None


def _stop(process: subprocess.Popen[str], owner: int) -> None:
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with suppress(OSError):
                stream.close()
    if owner == os.getpid():
        process.kill()
        process.wait()
