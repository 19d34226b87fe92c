"""Suites under settings: ask, check, and gather what is there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from dkv.lab.eval.answers import Asker, key_of
from dkv.lab.eval.eval_settings import Setting
from dkv.lab.eval.measured import ExampleOutcome, TaskOutcomes
from dkv.lab.eval.questions import digest
from dkv.lab.eval.suite import Problem, Suite
from dkv.storage.jsonl import Store

__all__ = ["gather", "missing", "run"]

_OF_GENERATION = ("tokens", "seconds", "rows", "rows_total", "cpu", "forwards")


def run(asker: Asker, suite: Suite, settings: Sequence[Setting]) -> Iterator[int]:
    """Answer and check what the store lacks; each time something was kept, say how many answers that was.

    Raises what `lm.generate` and the checks raise.
    """
    for setting in settings:
        _check(asker.store, suite, setting, suite.problems)  # answers whose check was interrupted
    for setting, asked in asker.ask(suite.questions, settings):
        _check(asker.store, suite, setting, [suite.problems[i] for i in asked])
        yield len(asked)


def missing(store: Store, suite: Suite, settings: Sequence[Setting]) -> int:
    """How many answers the store lacks."""
    return sum(key_of(q, setting) not in store for q in set(suite.questions) for setting in settings)


def gather(store: Store, suite: Suite, settings: Sequence[Setting]) -> list[TaskOutcomes]:
    """What the store holds of a suite, setting by setting."""
    return [TaskOutcomes(suite.name, setting, outcomes=_outcomes(store, suite, setting)) for setting in settings]


def _check(store: Store, suite: Suite, setting: Setting, problems: Iterable[Problem]) -> None:
    """Check the answers that were not: most caches give many the same text, which is checked once."""
    for problem in problems:
        key = key_of(problem.question, setting)
        if key not in store:
            continue
        text = store.get(key)["text"]
        verdict = _verdict_key(suite, problem, text)
        if verdict not in store:
            store.put({verdict: {"task": suite.name, "right": problem.check(text)}})


def _verdict_key(suite: Suite, problem: Problem, text: str) -> str:
    prompt = problem.question.prompt
    return digest({"task": suite.name, "prompt": prompt, "reference": problem.reference, "text": text})


def _outcomes(store: Store, suite: Suite, setting: Setting) -> dict[str, ExampleOutcome]:
    found = {}
    for number, problem in enumerate(suite.problems):
        key = key_of(problem.question, setting)
        if key not in store:
            continue
        answer = store.get(key)
        verdict = _verdict_key(suite, problem, answer["text"])
        if verdict in store:
            timing = {name: answer.get(name, 0.0) for name in _OF_GENERATION}
            found[str(number)] = ExampleOutcome(float(store.get(verdict)["right"]), answer["text"], **timing)
    return found
