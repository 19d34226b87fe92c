"""The generators: seeded, split by construction, and with checkers that accept the right answer and nothing near it."""

from __future__ import annotations

import random
import re

import pytest

from dkv.tiny import TASKS, Example, load_eval
from recipes.tiny.freeze import draw
from recipes.tiny.neighbours import score
from recipes.tiny.tasks import ALL, EVALUATED, is_held_out
from recipes.tiny.tasks.code_templates import TEMPLATES

NAMES = sorted(ALL)


def examples(name: str, count: int, seed: int = 3, level: int = 2) -> list[Example]:
    rng = random.Random(seed)
    return [ALL[name].training(rng, level) for _ in range(count)]


def spoilt(example: Example) -> str:
    """The reference answer with its last number, or else its last word, changed."""
    digits = list(re.finditer(r"\d+", example.answer))
    if digits:
        last = digits[-1]
        return example.answer[: last.start()] + str(int(last.group()) + 1) + example.answer[last.end() :]
    word = list(re.finditer(r"[A-Za-z]+", example.answer))[-1]
    return example.answer[: word.start()] + "wrong" + example.answer[word.end() :]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("level", [0, 1, 2])
def test_same_seed_same_examples(name: str, level: int) -> None:
    assert examples(name, 20, 5, level) == examples(name, 20, 5, level)
    assert examples(name, 20, 5, level) != examples(name, 20, 6, level)


@pytest.mark.parametrize("name", NAMES)
def test_reference_answers_pass_and_spoilt_ones_fail(name: str) -> None:
    for example in examples(name, 8 if name == "code" else 200):
        assert ALL[name].check(example, example.answer), example
        assert not ALL[name].check(example, spoilt(example)), example
        assert not ALL[name].check(example, "")


@pytest.mark.parametrize("name", sorted(EVALUATED))
def test_training_never_draws_the_evaluation_side(name: str) -> None:
    frozen = load_eval(name)
    held_out = {example.key for example in frozen}
    assert len(frozen) == len(held_out) == 400
    assert all(is_held_out(example) and example.task == name for example in frozen)
    assert not held_out & {example.key for example in examples(name, 2000)}


@pytest.mark.parametrize("name", sorted(EVALUATED))
def test_frozen_sets_are_the_generators_own(name: str) -> None:
    assert draw(EVALUATED[name], count=40) == load_eval(name)[:40]


@pytest.mark.parametrize("name", sorted(EVALUATED))
def test_a_neighbour_does_not_answer(name: str) -> None:
    """A small stand-in for `python -m recipes.tiny.neighbours`, which uses 20,000 examples."""
    assert score(EVALUATED[name], load_eval(name)[:20], count=2000) < 0.2


def test_shipped_tasks_are_known() -> None:
    assert set(TASKS) == set(EVALUATED)
    assert len(TASKS) >= 3


def test_word_problems_work_their_lines() -> None:
    for example in examples("words", 300):
        *lines, final = example.answer.splitlines()
        assert final.startswith("#### ")
        for line in lines:
            left, sign, right, result = re.fullmatch(r"(\d+)([-+*/])(\d+)=(\d+) \w+", line).groups()  # type: ignore[union-attr]
            worked = {"+": int(left) + int(right), "-": int(left) - int(right),
                      "*": int(left) * int(right), "/": int(left) // int(right)}[sign]  # fmt: skip
            assert worked == int(result)
            assert 0 < worked < 100
        assert lines[-1].split("=")[1].split()[0] == final.removeprefix("#### ")


def test_code_has_many_templates_and_all_are_right() -> None:
    assert len(TEMPLATES) >= 30
    bodies = {re.sub(r"\d+|'.'", "", example.answer.split(":\n")[-1]) for example in examples("code", 3000)}
    assert len(bodies) > len(TEMPLATES)


def test_code_completions_are_put_under_their_signature() -> None:
    completion = next(e for e in examples("code", 50) if e.prompt.startswith("Complete"))
    assert not completion.answer.startswith("def ")
    assert ALL["code"].check(completion, completion.answer.strip())  # also with the first indent stripped


def test_conversion_must_keep_the_format() -> None:
    example = next(e for e in examples("convert", 50) if e.answer.startswith("["))
    csv = example.prompt.split("\n", 1)[1]
    assert not ALL["convert"].check(example, csv)
    assert ALL["convert"].check(example, example.answer.replace(",", ", "))
