"""A whole benchmark: what is left to do, and what is kept."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dkv import SettingError
from dkv.lab.bench import bench_session as module
from dkv.lab.bench.bench_session import BenchSession, config_of, cost_of
from dkv.lab.bench.grid import AUTOREGRESSIVE, Grid
from dkv.lab.bench.roofline import Rates
from dkv.lab.bench.rows import read_rows
from dkv.lab.bench.shapes import named_shape
from tests.support.grids import GRID

MICRO = named_shape("micro,context=64")
TINY_GRID = replace(GRID, model="shape:micro", prompts=[4], gens=[8, 16], batches=[1], repeats=1)


@pytest.fixture(autouse=True)
def _quick_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "measure_rates", lambda *_: Rates(1e9, 1e9))


def session(path: Path, grid: Grid = TINY_GRID) -> BenchSession:
    return BenchSession(grid, MICRO, True, path, torch.device("cpu"))


def silent(what: str, share: float) -> None:
    assert what
    assert 0 <= share < 1


def test_every_group_is_kept_as_soon_as_it_is_done(tmp_path: Path) -> None:
    path = tmp_path / "b.jsonl"
    going = session(path).run(silent)
    assert [cell.gen for cell in next(going)] == [8, 8]
    assert len(read_rows(path)) == 2
    resumed = session(path)
    assert [group[0].gen for group in resumed.outstanding] == [16]
    assert [[cell.gen for cell in group] for group in resumed.run(silent)] == [[16, 16]]
    assert resumed.outstanding == []
    assert read_rows(path) == resumed.rows
    assert [row.cell.cache for row in resumed.rows] == ["none", "dkv-decode"] * 2
    assert list(session(path).run(silent)) == []


def test_a_cache_that_is_added_runs_beside_no_cache_and_alone_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "b.jsonl"
    list(session(path).run(silent))
    before = path.read_bytes()
    more = session(path, replace(TINY_GRID, caches=["dkv-decode", "dkv-pd"]))
    assert [[cell.cache for cell in group] for group in more.outstanding] == [["none", "dkv-pd"]] * 2
    list(more.run(silent))
    after = path.read_bytes()
    assert after.startswith(before)
    assert [row.cell.cache for row in read_rows(path)][4:] == ["dkv-pd"] * 2
    assert len(more.rows) == 6


def test_counting_runs_no_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "random_model", lambda *_: pytest.fail("a model was made"))
    counted = session(tmp_path / "b.jsonl", replace(TINY_GRID, repeats=0, baseline="ar"))
    list(counted.run(silent))
    none, decode, ar = counted.rows[:3]
    assert (none.result.seconds, none.speedup, none.result.agreement) == ([], None, None)
    assert none.result.rows_computed == none.result.rows_total == 8 * 12
    assert decode.result.rows_computed < 8 * 12
    assert decode.flops_saved > 1
    assert ar.cell.cache == AUTOREGRESSIVE
    assert ar.result.rows_computed == 4 + 7


def test_counts_are_those_of_a_run(tmp_path: Path) -> None:
    caches = ["dkv-decode", "dllm-cache:kp=4,kr=2", "fast-dual"]
    rows = []
    for repeats in (0, 1):
        one = session(tmp_path / f"{repeats}.jsonl", replace(TINY_GRID, repeats=repeats, caches=caches, baseline="ar"))
        list(one.run(silent))
        rows.append(one.rows)
    for counted, ran in zip(*rows, strict=True):
        for name in ("rows_computed", "rows_total", "flops", "forwards", "cache_bytes", "bound_seconds"):
            assert getattr(counted.result, name) == getattr(ran.result, name), (counted.cell.cache, name)


def test_refused_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="come to 65, beyond the model's context of 64; shorten"):
        session(tmp_path / "b.jsonl", replace(TINY_GRID, prompts=[49], gens=[16]))
    with pytest.raises(SettingError, match=r"out=.* must be a file in a directory that exists"):
        session(tmp_path)
    with pytest.raises(SettingError, match=r"out=.* must be a file in a directory that exists"):
        session(tmp_path / "missing" / "b.jsonl")


def test_the_config_of_a_checkpoint_is_that_of_its_model(bare: Path) -> None:
    import dkv

    assert config_of(str(bare)) == dkv.load(bare, dtype="float32").model.config
    assert config_of("tiny").family == "llada"


def test_longer_groups_cost_more() -> None:
    costs = [cost_of(group) for group in session(Path("b.jsonl")).outstanding]
    assert costs == sorted(costs)
    assert costs[0] < costs[1]
