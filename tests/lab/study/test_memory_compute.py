"""The study `memory` on hand-made records, and one cell for real."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dkv.lab.bench.shapes import SHAPES
from dkv.lab.common.plots import draw
from dkv.lab.eval.questions import messages_of
from dkv.lab.study.base import Effort, Record
from dkv.lab.study.context import Kit
from dkv.lab.study.memory_compute import MemoryCompute, label_of
from dkv.tiny import load_eval
from tests.support.study_samples import llada

GIB = 1 << 30
PLAIN = 32 * 2 * 1281 * 4096 * 2
"""Keys and values of LLaDA-8B's layers, 1,280 slots and scratch, in bfloat16."""


def record(cache: str, dtype: str, over: float, rows: float, seconds: float, same: int = 8) -> Record:
    """over: bytes beside keys and values, as a share of the weights."""
    cell = {"task": "words", "count": 8, "cache": cache, "cache_dtype": dtype}
    result: dict[str, Any] = {
        "cache_bytes": 100,
        "llada_bytes": PLAIN + over * 16 * GIB,
        "llada_weights": 16 * GIB,
        "peak_bytes": None,
        "rows": rows,
        "none_rows": 100,
        "seconds": [seconds],
        "none_seconds": [2.0],
        "same": [number < same for number in range(8)],
        "right": [True] * 8,
        "none_right": [True] * 8,
    }
    return Record(cell, result)


@pytest.mark.parametrize(
    ("over", "rows", "seconds", "held"),
    [(0.1, 30, 1.0, True), (0.16, 30, 1.0, False), (0.1, 101, 1.0, False), (0.1, 30, 2.1, False)],
)
def test_the_rule(over: float, rows: float, seconds: float, held: bool) -> None:
    verdict = MemoryCompute().verdict([record("dllm-cache", "bfloat16", over, rows, seconds)])
    assert verdict.held is held
    assert f"add {over:.1%} of the weights" in verdict.sentence


def test_dtypes_are_compared_in_pairs() -> None:
    both = [record("dllm-cache", "float32", 0.1, 30, 1.0), record("dllm-cache", "bfloat16", 0.1, 30, 1.0, same=4)]
    sentence = MemoryCompute().verdict(both).sentence
    assert "dllm-cache: 8/8 = 100.0%" in sentence
    assert "bfloat16 -50.0 [" in sentence
    assert "n=8" in sentence


def test_without_dllm_cache_nothing_is_told() -> None:
    assert MemoryCompute().verdict([record("dkv-pd", "bfloat16", 0, 30, 1.0)]).held is None


@pytest.mark.parametrize("quick", [True, False])
def test_cells(quick: bool) -> None:
    cells = MemoryCompute().cells(Effort(quick=quick, count=50))
    assert len({label_of(cell) for cell in cells}) == len(cells)
    assert {cell["count"] for cell in cells} == {4 if quick else 50}


def test_a_conversation_is_asked_whole(tmp_path: Path) -> None:
    kit = Kit(llada(tmp_path / "m"), "cpu", "float32")
    cell = {"task": "dialogue", "count": 2, "cache": "dkv-pd", "cache_dtype": "float32"}  # one timed, one not
    (made,) = MemoryCompute().measure(kit, [cell])
    examples = load_eval("dialogue")[:2]
    said = [messages_of(example.messages) for example in examples]
    none = kit.lm().generate(said, gen_length=examples[0].gen_length, seed=0, cache="none", stop_at_eos=False)
    assert made.result["none_rows"] == sum(g.stats.rows_computed for g in none)


def test_a_cell_for_real_and_its_plot() -> None:
    pytest.importorskip("matplotlib")
    cells = [{"task": "words", "count": 1, "cache": "dllm-cache:rho=0", "cache_dtype": "bfloat16"}]
    (made,) = MemoryCompute().measure(Kit(device="cpu"), cells)
    result, large = made.result, SHAPES["llada-8b"]
    # Keys and values of four layers, a feature of three: 256 wide, two bytes each.
    assert result["cache_bytes"] == (4 * 2 + 3) * 256 * 2
    assert result["llada_bytes"] == (32 * 2 + 31) * 1281 * large.width * 2
    assert result["rows"] < result["none_rows"]
    assert len(result["seconds"]) == len(result["same"]) == 1
    assert len(draw(MemoryCompute().chart([made])).axes) == 4
