"""Ranges of prompt lengths, and the rule."""

from __future__ import annotations

from pathlib import Path

from dkv.lab.common.plots import draw
from dkv.lab.eval.suites import embedded
from dkv.lab.study.accuracy import NONE, Policy
from dkv.lab.study.base import Effort, Record
from dkv.lab.study.context import Kit
from dkv.lab.study.long_prompts import LongPrompts, between
from dkv.tiny import load_eval
from tests.support.study_samples import flags, llada, record

POLICIES = (NONE, Policy("dkv-prefill"), Policy("dllm-cache"))


def test_ranges_of_lengths() -> None:
    kit, suite = Kit(), embedded("words", 40)
    tokenizer = kit.lm().tokenizer
    assert tokenizer is not None
    lengths = [len(tokenizer.encode(str(q.prompt))) for q in suite.questions]
    middle = sorted(lengths)[20]
    short, long = (between(kit, suite, *ends, 1000) for ends in ((0, middle), (middle, 2048)))
    assert [p for p, n in zip(suite.problems, lengths, strict=True) if n < middle] == list(short.problems)
    assert len(short.problems) + len(long.problems) == 40
    assert between(kit, suite, middle, 2048, 3).problems == long.problems[:3]


def test_a_conversation_is_as_long_as_all_its_messages() -> None:
    kit, suite = Kit(), embedded("dialogue", 20)
    tokenizer = kit.lm().tokenizer
    assert tokenizer is not None
    talks = [example.messages for example in load_eval("dialogue")[:20]]
    lengths = [sum(len(tokenizer.encode(text)) for _, text in talk) for talk in talks]
    middle = sorted(lengths)[10]
    expected = [p for p, n in zip(suite.problems, lengths, strict=True) if n < middle]
    assert list(between(kit, suite, 0, middle, 20).problems) == expected


def test_a_run(tmp_path: Path) -> None:
    study = LongPrompts("words")  # of byte tokens, more than 200 a prompt
    cells = study.cells(Effort(quick=True, count=2))
    records = list(study.measure(Kit(llada(tmp_path / "m"), "cpu", "float32"), cells))
    assert [record.cell for record in records] == cells
    counts = [len(record.result["right"]) for record in records]
    assert counts[3:] == [2, 2, 2, 0, 0, 0]
    ticks = [text.get_text() for text in draw(study.chart(records)).axes[0].get_xticklabels()]
    assert ticks[1:] == ["200-499, n=2", "500-2047, n=0"]
    assert study.verdict(records).held is None


def test_without_the_task_there_is_nothing() -> None:
    study = LongPrompts("no such task")
    assert study.cells(Effort()) == []
    assert study.verdict([]).held is None


def made(*right: int, count: int = 200) -> list[Record]:
    """All wrong on short prompts, which do not matter; so many of two hundred right on the longer ones."""
    long = [
        record(policy, flags((n * count // 200, True), (count - n * count // 200, False)), tokens=list(ends))
        for policy, n in zip(POLICIES, right, strict=True)
        for ends in ((200, 500), (500, 2048))
    ]
    return [record(policy, flags((9, policy == NONE)), tokens=[0, 200]) for policy in POLICIES] + long


def test_the_rule() -> None:
    study = LongPrompts()
    assert study.verdict(made(180, 180, 180)).held is True
    assert study.verdict(made(180, 180, 120)).held is False
    assert study.verdict(made(180, 180, 180, count=10)).held is None
    assert "n=400" in study.verdict(made(180, 180, 180)).sentence
