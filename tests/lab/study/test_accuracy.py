"""From policies to kept flags on models with random weights; pools and their pairs by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from dkv.lab.study.accuracy import NONE, Policy, cells_of, measured, pool, pooled
from dkv.lab.study.base import Effort
from dkv.lab.study.context import Kit
from tests.support.study_samples import flags, llada, record

EXACT = Policy("dkv-decode:refresh=1")
QUICK = Effort(quick=True, count=2)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return llada(tmp_path_factory.mktemp("model") / "llada")


def kit_of(model: str, out: Path | None = None) -> Kit:
    return Kit(model, device="cpu", dtype="float32", out=out)


def test_cells_are_measured_and_paired(model: str) -> None:
    cells = cells_of([NONE, EXACT, Policy("none", "random")], QUICK)
    notes: list[str] = []
    kit = kit_of(model)
    kit.tell = notes.append
    none, exact, random = measured(kit, cells)
    assert [r.cell for r in (none, exact, random)] == cells
    assert none.result["said"] == exact.result["said"] != random.result["said"]
    assert len(none.result["right"]) == 2
    assert none.result["rows"] == none.result["rows_total"] == exact.result["rows"]
    assert none.result["cpu_seconds"] > 0
    assert notes[0] == "words: 0 of 6 answers"
    assert notes[-1] == "words: 4 of 6 answers"


def test_studies_share_answers(model: str, tmp_path: Path) -> None:
    with kit_of(model, tmp_path) as kit:
        (first,) = measured(kit, cells_of([Policy("dkv-decode:refresh=8,delay=1")], QUICK))
    (path,) = tmp_path.iterdir()
    assert path.name == "answers.llada.jsonl"
    size = path.stat().st_size
    with kit_of(model, tmp_path) as kit:
        (second,) = measured(kit, cells_of([Policy("dkv-decode")], QUICK))
    assert path.stat().st_size == size
    assert first.result == second.result


def test_pools_by_hand() -> None:
    here, there = flags((3, True), (1, False)), flags((1, False), (3, True))
    records = [record(EXACT, here, 0.5), record(NONE, there), record(EXACT, here, 0.25, task="code")]
    both = pool(records, EXACT)
    assert (both.share.right, both.share.count, both.rows_share) == (6, 8, 0.375)
    assert both.tokens_per_second == 10.0
    assert both.cpu_seconds == 3.0
    one, other = pooled(records[:1]), pool(records, NONE)
    assert (one.less(other).gained, one.less(other).lost, one.less(other).both) == (1, 1, 2)
    assert str(one.agreement(other)).startswith("2/4 = ")
    with pytest.raises(KeyError, match="dllm-cache"):
        pool(records, Policy("dllm-cache"))
