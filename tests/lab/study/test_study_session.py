"""A session: what is kept, what goes on, what is refused, and what the page holds."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

import pytest

from dkv.errors import SettingError
from dkv.lab.common.charts import Chart, Panel, Series
from dkv.lab.study.base import Cell, Effort, Record, Verdict
from dkv.lab.study.context import Kit
from dkv.lab.study.study_page import Finished
from dkv.lab.study.study_session import StudySession


class Squares:
    """Measures without a model. broken: where it fails; asked: what it was asked to measure."""

    name: ClassVar[str] = "squares"
    claim: ClassVar[str] = "Squares grow <fast>."

    def __init__(self, broken: int | None = None, name: str = "squares") -> None:
        self.broken, self.asked = broken, list[int]()

    def cells(self, effort: Effort) -> Sequence[Cell]:
        return [{"n": n} for n in range(effort.count)]

    def measure(self, kit: Kit, cells: Sequence[Cell]) -> Iterator[Record]:
        for cell in cells:
            if cell["n"] == self.broken:
                raise KeyboardInterrupt
            self.asked.append(cell["n"])
            yield Record(cell, {"square": cell["n"] ** 2, "right": [True] * 9 + [False]})

    def chart(self, records: Sequence[Record]) -> Chart:
        squares = [r.result["square"] for r in records]
        return Chart("", [Panel(series=[Series("squares", squares, range(len(squares)))])])

    def verdict(self, records: Sequence[Record]) -> Verdict:
        return Verdict(True, f"The largest is {max(r.result['square'] for r in records)} & no more.")


class Nothing(Squares):
    """Has no cells."""

    name: ClassVar[str] = "nothing"

    def cells(self, effort: Effort) -> Sequence[Cell]:
        return []

    def verdict(self, records: Sequence[Record]) -> Verdict:
        return Verdict(None, "There is nothing.")


def run(study: Squares, out: Path, count: int = 3, seed: int = 0, dtype: str = "auto") -> list[Finished]:
    with StudySession([study], Effort(count=count), Kit(seed=seed, dtype=dtype), out, "dkv study squares") as session:
        return session.run(lambda study: None)


def lines(out: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (out / "squares.jsonl").read_text(encoding="utf-8").splitlines()]


def test_what_is_measured_is_kept_and_not_measured_again(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(Squares(broken=2), tmp_path / "a" / "b")
    out = tmp_path / "a" / "b"
    header, *records = lines(out)
    assert header["format"] == "dkv-study 1"
    assert (header["model"], header["seed"], header["command"]) == ("tiny", 0, "dkv study squares")
    assert {"fingerprint", "device", "dtype", "version", "effort"} <= set(header)
    assert [record["cell"] for record in records] == [{"n": 0}, {"n": 1}]
    with (out / "squares.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"key": "cut off')
    study = Squares()
    (finished,) = run(study, out)
    assert study.asked == [2]
    assert [record.result["square"] for record in finished.records] == [0, 1, 4]
    more = Squares()
    run(more, out, count=5)
    assert more.asked == [3, 4]
    assert len(lines(out)) == 6


def test_cells_are_kept_one_by_one(tmp_path: Path) -> None:
    found = []
    with StudySession([Squares()], Effort(count=3), Kit(), tmp_path, "") as session:
        session.run(lambda study: found.append(len(lines(tmp_path))))
    assert found == [2, 3, 4]


@pytest.mark.parametrize(("seed", "dtype", "named"), [(1, "auto", "seed=0, not 1"), (0, "float64", "not 'float64'")])
def test_another_run_is_not_mixed_in(tmp_path: Path, seed: int, dtype: str, named: str) -> None:
    run(Squares(), tmp_path)
    with pytest.raises(SettingError, match=named) as caught:
        run(Squares(), tmp_path, seed=seed, dtype=dtype)
    assert "squares.jsonl" in str(caught.value)
    assert str(caught.value).endswith("give another directory")


def test_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="count=0"):
        run(Squares(), tmp_path, count=0)
    (tmp_path / "file").touch()
    with pytest.raises(SettingError, match="cannot be a directory"):
        run(Squares(), tmp_path / "file")
    (tmp_path / "squares.jsonl").write_text("my notes\n", encoding="utf-8")
    with pytest.raises(SettingError, match="not of a result file of dkv study"):
        run(Squares(), tmp_path)
    assert (tmp_path / "squares.jsonl").read_text(encoding="utf-8") == "my notes\n"


def test_one_run_at_a_time(tmp_path: Path) -> None:
    with (
        StudySession([Squares()], Effort(count=1), Kit(), tmp_path, ""),
        pytest.raises(SettingError, match="being written by another run; wait, or give another directory"),
    ):
        run(Squares(), tmp_path)
    run(Squares(), tmp_path)  # afterwards it is free


def test_the_page_needs_nothing_else(tmp_path: Path) -> None:
    with StudySession([Squares(), Nothing()], Effort(count=3), Kit(), tmp_path, "dkv study all --x") as session:
        session.run(lambda study: None)
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert page.count('src="data:image/png;base64,') == 1
    assert not re.search(r"(src|href)=\"(?!data:)|https?://|url\(|<script|<link", page)
    for part in (
        "Squares grow &lt;fast&gt;.", "The largest is 4 &amp; no more.", "There is nothing.", "cannot tell",
        "held here", "<td>9/10</td>", "dkv study all --x", "fingerprint", "processor", "torch",
        "Nothing was measured",
    ):  # fmt: skip
        assert part in page
    assert (tmp_path / "squares.png").read_bytes().startswith(b"\x89PNG")
    assert not (tmp_path / "nothing.png").exists()
    assert (tmp_path / "verdicts.md").read_text(encoding="utf-8") == (
        "| study | claim | verdict | measured here |\n|---|---|---|---|\n"
        "| `squares` | Squares grow <fast>. | held here | The largest is 4 & no more. |\n"
        "| `nothing` | Squares grow <fast>. | cannot tell | There is nothing. |\n"
    )
    assert not list(tmp_path.glob("*.part")) + list(tmp_path.glob(".*"))
