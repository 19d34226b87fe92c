"""The page needs nothing but itself, tells everything, and its plots can be read."""

from __future__ import annotations

from html.parser import HTMLParser
from itertools import combinations
from pathlib import Path

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from dkv import SettingError
from dkv.lab.bench.bench_charts import plots_of
from dkv.lab.bench.bench_page import page, write_report
from dkv.lab.bench.columns import COLUMNS
from dkv.lab.common.html import Picture
from dkv.lab.common.plots import draw, png
from tests.support.bench_samples import UNTIMED, grid_of_rows, row

PNG = b"\x89PNG\r\n\x1a\n"


class Links(HTMLParser):
    """What a page refers to, and its text."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.tags: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "data", "srcset")]

    def handle_data(self, data: str) -> None:
        self.text += data


def read(text: str) -> Links:
    links = Links()
    links.feed(text)
    return links


def test_the_page_is_whole_in_itself() -> None:
    found = read(page(grid_of_rows(), [Picture("a < b", PNG)]))
    assert [link[:22] for link in found.links] == ["data:image/png;base64,"]
    assert set(found.tags).isdisjoint({"script", "link", "iframe"})
    assert "url(" not in found.text
    assert "a < b" in found.text


def test_the_page_has_every_row_setting_and_version() -> None:
    rows = grid_of_rows()
    found = read(page(rows, []))
    assert found.tags.count("tr") == 1 + len(rows) + 1 + 6 + 9
    for column in COLUMNS:
        assert column.title in found.text
        assert column.text(rows[0]) in found.text
    for text in ('"torch": "2"', "A <fast> one", "dkv-decode:refresh=8", "threads: 1", "gen: 16, 32, 64", '"flops": 1'):
        assert text in found.text


def test_what_was_not_measured_is_named() -> None:
    text = page([row({"joules": None, "ar_seconds": None, "peak_bytes": None})], [])
    assert "Not measured here: of AR, J/token, peak memory." in text


def test_files_are_whole(tmp_path: Path) -> None:
    written = write_report(grid_of_rows(), tmp_path / "r.html")
    assert sorted(tmp_path.iterdir()) == sorted(written)
    assert [path.name for path in written] == [
        "r.html", "r.throughput-0.png", "r.time-0.png", "r.saved-0.png", "r.roofline-0.png", "r.flops-0.png",
        "r.memory-0.png",
    ]  # fmt: skip
    assert all(path.read_bytes().startswith(PNG) for path in written[1:])
    assert len(read(written[0].read_text(encoding="utf-8")).links) == 6


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "r.html").mkdir()
    with pytest.raises(SettingError, match=r"out='.*r.html' cannot be written"):
        write_report([row()], tmp_path / "r.html")
    assert not list(tmp_path.glob(".*"))


def test_counts_alone_have_plots_of_counts() -> None:
    names = [plot.name for plot in plots_of([row({**UNTIMED, "peak_bytes": None}), row(UNTIMED, cache="none")])]
    assert names == ["flops-0", "memory-0"]


def test_other_settings_have_plots_of_their_own() -> None:
    assert [plot.name for plot in plots_of([row(batch=1), row(batch=4)])][::6] == ["throughput-0", "throughput-1"]


@pytest.mark.parametrize("number", range(6))
def test_nothing_lies_on_anything_and_nothing_is_cut_off(number: int) -> None:
    plot = list(plots_of(grid_of_rows()))[number]
    figure = draw(plot.chart)
    boxes = list(_boxes(figure))
    assert len(boxes) > 10
    whole = figure.bbox
    for name, box in boxes:
        assert whole.x0 <= box.x0 + 1, name
        assert box.x1 <= whole.x1 + 1, name
        assert whole.y0 <= box.y0 + 1, name
        assert box.y1 <= whole.y1 + 1, name
    for (name, box), (other, second) in combinations(boxes, 2):
        assert not box.overlaps(second), (name, other)


def _boxes(figure: Figure) -> list[tuple[str, Bbox]]:
    """Where every text of a plot lies."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # type: ignore[no-untyped-call]
    texts = [figure._suptitle] if figure._suptitle else []  # type: ignore[attr-defined]
    for legend in figure.legends:
        texts += legend.get_texts()
    for axis in figure.axes:
        texts += [axis.title, axis.xaxis.label, axis.yaxis.label, *axis.texts]
        for line in (axis.xaxis, axis.yaxis):
            low, high = sorted(line.get_view_interval())
            texts += [t.label1 for t in line.get_major_ticks() if low <= t.get_loc() <= high and t.label1.get_visible()]
        own = axis.get_legend()
        texts += own.get_texts() if own is not None else []
    renderer = canvas.get_renderer()  # type: ignore[no-untyped-call]
    return [(text.get_text(), text.get_window_extent(renderer)) for text in texts if text.get_text().strip()]


def test_a_single_length_stands_in_the_middle() -> None:
    (plot, *_) = plots_of([row(), row(cache="none")])
    low, high = draw(plot.chart).axes[0].get_xlim()
    assert (low, high) == (10, 40)


def test_a_png_has_the_size_of_its_figure() -> None:
    plot = next(plots_of(grid_of_rows()))
    data = png(plot.chart)
    width = int.from_bytes(data[16:20], "big")
    assert width == pytest.approx(draw(plot.chart).get_figwidth() * 140, abs=1)
