"""Numbers as text, and that the page of the documentation tells of every column."""

from __future__ import annotations

from pathlib import Path

from dkv.lab.bench.columns import COLUMNS, growth_lines, shown
from dkv.lab.bench.exponents import growths
from dkv.lab.bench.rows import RepeatSpread
from tests.support.bench_samples import grid_of_rows, row

PAGE = Path(__file__).parents[3] / "docs" / "bench.md"


def test_spreads() -> None:
    assert shown(None) == ""
    assert shown(RepeatSpread(2.0, 2.0, 2.0), "x") == "2.00x"
    assert shown(RepeatSpread(2.0, 1.8, 2.1), "x") == "2.00x ±10%"
    assert shown(RepeatSpread(0.004, 0.004, 0.005), "s", True) == "4.00 ms ±25%"


def test_every_column_of_a_row() -> None:
    texts = {column.title: column.text(row()) for column in COLUMNS}
    assert texts == {
        "cache": "dkv-decode", "prompt": "10", "gen": "20", "batch": "2", "dtype": "float32",
        "tokens/s": "5.00 ±100%", "s/step": "100 ms ±100%", "CPU s/step": "50.0 ms ±100%", "speed-up": "2.00x ±100%",
        "CPU speed-up": "3.00x ±67%", "FLOPs saved": "66.7%", "forwards": "20", "rows": "600 (50.0%)",
        "FLOPs": "1.00 M", "agreement": "75.0%", "roofline": "500 ms", "of roofline": "25.0% ±100%",
        "of AR": "2.00x ±100%", "J/token": "2.00 J ±50%", "cache memory": "200 kB", "peak memory": "5.00 MB",
        "weights": "7.00 MB",
    }  # fmt: skip
    assert len(texts) == len(COLUMNS)


def test_the_documentation_has_every_column_and_its_meaning() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for column in COLUMNS:
        assert f"| `{column.title}` | {column.meaning}" in page


def test_exponents_as_text() -> None:
    titles, lines = growth_lines(growths(grid_of_rows()))
    assert lines[0] == ("none", "float32", "2", "gen^exponent", "prompt 8", "3.00 ± 0.00", "3.00 ± 0.00")
    assert all(len(line) == len(titles) for line in lines)
