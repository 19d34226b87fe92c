"""Which prompts the probing studies ask, and that a conversation is asked whole."""

from __future__ import annotations

import dkv
from dkv.lab.eval.questions import messages_of
from dkv.lab.study.base import Effort
from dkv.lab.study.context import Kit
from dkv.lab.study.domains import snapshots, task_cells
from dkv.tiny import load_eval


def test_a_conversation_is_asked_whole() -> None:
    lm: dkv.DiffusionLM = Kit(device="cpu", dtype="float32").lm()
    cell = next(cell for cell in task_cells(Effort(quick=True, count=2)) if cell["task"] == "dialogue")
    said = [messages_of(example.messages) for example in load_eval("dialogue")[:2]]
    whole = [len(g.prompt_ids) for g in lm.generate(said, gen_length=1, seed=0)]
    assert next(snapshots(lm, cell)).prompt == whole


def test_a_text_is_asked_as_before() -> None:
    lm = Kit(device="cpu", dtype="float32").lm()
    cell = {"task": "words", "first": 1, "count": 2}
    texts = [example.prompt for example in load_eval("words")[1:3]]
    alone = [len(g.prompt_ids) for g in lm.generate(texts, gen_length=1, seed=0)]
    assert next(snapshots(lm, cell)).prompt == alone


def test_cells_of_conversations_are_not_those_that_asked_the_last_turn() -> None:
    turns = {cell["task"]: cell.get("turns") for cell in task_cells(Effort())}
    assert turns["dialogue"] == "all"
    assert turns["words"] is turns["code"] is turns["spanish"] is None
