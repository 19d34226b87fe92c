"""Answers of a model to the questions of suites under several settings, batch by batch, each kept and checked as
soon as it is there."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from dkv.checkpoints.weight_files import fingerprint
from dkv.lab.eval.eval_table import ExampleOutcome, TaskOutcomes
from dkv.lab.eval.questions import Question, Setting, as_prompt, batches, digest
from dkv.lab.eval.suites import Problem, Suite
from dkv.lm import DiffusionLM
from dkv.loading import compiled_as
from dkv.outputs import Generation
from dkv.storage.jsonl import Store, StoreFormat
from dkv.version import VERSION

__all__ = [
    "ANSWERS", "Asker", "ask_missing", "common_of", "gather", "key_of", "missing", "record_of", "run",
    "seed_of_question", "warm_up",
]  # fmt: skip

ANSWERS = StoreFormat("dkv-eval 1", "dkv eval")
_WARM_UP_LENGTH = 8
_OF_GENERATION = ("tokens", "seconds", "rows", "rows_total", "cpu", "forwards")


def common_of(lm: DiffusionLM, seed: int) -> dict[str, Any]:
    """What all answers of a file have in common: the model, how it computes, and the seed. Raises OSError."""
    return {
        "model": lm.name,
        "fingerprint": None if lm.directory is None else fingerprint(lm.directory),
        "device": lm.model.device.type,
        "dtype": str(lm.model.dtype).removeprefix("torch."),
        "quantize": lm.quantize,
        **compiled_as(lm.compiled),
        "seed": seed,
        "version": VERSION,
    }


def key_of(question: Question, setting: Setting) -> str:
    """Under which an answer is kept: all that decides it, besides what the whole file has in common."""
    return digest(question.under(setting))


def seed_of_question(seed: int, question: Question) -> int:
    """The seed that a question is answered with. Sampled answers to different questions, and different draws of one,
    must not share their noise: statistics take them to be independent. The same under every setting, which pairs them.
    """
    if not question.temperature:
        return seed + question.draw
    found = digest({"seed": seed, "prompt": question.prompt, "draw": question.draw})
    return int(found, 16) >> 43  # of 96 bits; below 2**53, which every reader of JSON keeps whole


def record_of(generation: Generation, seconds: float, cpu: float) -> dict[str, Any]:
    """What is kept of a generation. seconds, cpu: its part of its batch's wall-clock and processor time."""
    stats = generation.stats
    return {
        "text": generation.text or "",
        "tokens": stats.new_tokens,
        "forwards": stats.forwards,
        "rows": stats.rows_computed,
        "rows_total": stats.rows_total,
        "seconds": seconds,
        "cpu": cpu,
    }


@dataclass(frozen=True)
class Asker:
    """A model, the file of its answers, the seed, and how many prompts share a batch. A store serves one model and one
    seed."""

    lm: DiffusionLM
    store: Store
    seed: int = 0
    batch_size: int = 32

    def ask(self, questions: Sequence[Question], settings: Sequence[Setting]) -> Iterator[tuple[Setting, list[int]]]:
        """Answer what the store lacks; each time something was kept, say under which setting, and which questions.

        Every setting takes a batch before the next batch starts: what is interrupted is comparable, and a machine that
        slows down slows all of them. Batches do not depend on what is there already. Raises what `generate` raises.
        """
        for batch in batches(questions, self.batch_size):
            for setting in settings:
                missing = {key: i for i in batch if (key := key_of(questions[i], setting)) not in self.store}
                if missing:
                    began = time.process_time()
                    made = self.generate([questions[i] for i in missing.values()], setting)
                    cpu = (time.process_time() - began) / len(made)
                    seconds = max(g.stats.seconds for g in made) / len(made)
                    self.store.put({k: record_of(g, seconds, cpu) for k, g in zip(missing, made, strict=True)})
                    yield setting, list(missing.values())

    def generate(self, questions: Sequence[Question], setting: Setting) -> list[Generation]:
        """One batch of questions that differ in their prompts only."""
        first = questions[0]
        return self.lm.generate(
            [as_prompt(q.prompt, self.lm.tokenizer, q.chat) for q in questions],
            gen_length=setting.gen_length or first.gen_length,
            block_length=setting.block_length,
            steps=setting.steps,
            temperature=first.temperature,
            top_p=first.top_p,
            top_k=first.top_k,
            cfg_scale=setting.cfg_scale,
            seed=[seed_of_question(self.seed, q) for q in questions],
            cache=setting.cache,
            decoder=setting.decoder,
            stop=first.stop,
            chat=first.chat,
            batch_size=len(questions),
            grow=setting.grow,
        )

    def answer(self, question: Question, setting: Setting) -> dict[str, Any]:
        """The kept answer. Raises KeyError."""
        return self.store.get(key_of(question, setting))


def warm_up(asker: Asker, question: Question, settings: Sequence[Setting]) -> None:
    """A short untimed run of each setting: the first forwards of a process pay for what no later one does."""
    for setting in settings:
        length = min(question.gen_length, setting.block_length or _WARM_UP_LENGTH)
        blocks = Setting(setting.decoder, setting.cache, setting.cfg_scale, gen_length=length)
        asker.generate([question], blocks)


def run(asker: Asker, suite: Suite, settings: Sequence[Setting]) -> Iterator[int]:
    """Answer and check what the store lacks; each time something was kept, say how many answers that was.

    Raises what `lm.generate` and the checks raise.
    """
    for setting in settings:
        _check(asker.store, suite, setting, suite.problems)  # answers whose check was interrupted
    for setting, asked in asker.ask(suite.questions, settings):
        _check(asker.store, suite, setting, [suite.problems[i] for i in asked])
        yield len(asked)


def ask_missing(asker: Asker, suite: Suite, settings: Sequence[Setting], tell: Callable[[str], None]) -> None:
    """As `run`, with a line of progress after each batch."""
    total = left = missing(asker.store, suite, settings)
    for count in run(asker, suite, settings):
        left -= count
        tell(f"{suite.name}: {total - left} of {total} answers")


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
