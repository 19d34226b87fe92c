"""The scale study on models of both families, and its rule."""

from __future__ import annotations

from pathlib import Path

from dkv.lab.common.plots import draw
from dkv.lab.study.accuracy import Policy
from dkv.lab.study.base import Effort, Record
from dkv.lab.study.context import Kit
from dkv.lab.study.scale import Scale
from tests.support.study_samples import flags, llada, record, small_dream


def test_models_of_both_families(tmp_path: Path) -> None:
    models = [llada(tmp_path / "small", 1), small_dream(tmp_path / "dream")]
    study, effort = Scale(models), Effort(quick=True, count=1, model=models[0])
    cells = study.cells(effort)
    assert [cell["model"] for cell in cells] == [models[0]] * 4 + [models[1]] * 4
    with Kit(models[0], "cpu", "float32", out=tmp_path) as kit:
        records = list(study.measure(kit, cells))
    assert [record.cell for record in records] == cells
    assert [record.result["family"] for record in records] == ["llada"] * 4 + ["dream"] * 4
    assert {path.name for path in tmp_path.glob("answers*")} == {"answers.small.jsonl", "answers.dream.jsonl"}
    assert records[0].result["said"] != records[4].result["said"]
    figure = draw(study.chart(records))
    assert [text.get_text().partition(" (")[2] for text in figure.legends[0].get_texts()] == [
        f"{r.result['family']}, {r.result['layers']} layers of {r.result['width']})" for r in (records[0], records[4])
    ]
    assert study.verdict(records).held is None


def test_the_studied_model_comes_first_and_once() -> None:
    cells = Scale(["a", "b"]).cells(Effort(quick=True, count=1, model="b"))
    assert list(dict.fromkeys(cell["model"] for cell in cells)) == ["b", "a"]
    assert "tiny" in {cell["model"] for cell in Scale().cells(Effort(quick=True, count=1))}


def made(model: str, right: int) -> list[Record]:
    caches = {"none": 360, "dkv-decode:refresh=4": right, "dkv-decode:refresh=8": 0, "dllm-cache": 0}
    return [record(Policy(c), flags((n, True), (400 - n, False)), model=model) for c, n in caches.items()]


def test_the_rule() -> None:
    study = Scale([])
    assert study.verdict(made("a", 360) + made("b", 360)).held is True
    assert study.verdict(made("a", 360) + made("b", 300)).held is False
    alone = study.verdict(made("a", 300))
    assert alone.held is None
    assert alone.sentence.startswith("There is only one model here.")
