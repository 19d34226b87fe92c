"""Which cells there are, and which settings are refused before anything runs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dkv import SettingError, SpecError
from dkv.lab.bench.grid import AUTOREGRESSIVE, settings_of
from tests.support.grids import GRID


def test_every_point_once_and_no_cache_first() -> None:
    groups = replace(GRID, prompts=[8, 4, 8]).groups()
    assert [[cell.cache for cell in group] for group in groups] == [["none", "dkv-decode"]] * 8
    assert len({group[0].key for group in groups}) == 8
    assert len({cell.point.key for group in groups for cell in group}) == 8
    assert groups[0][0].prompt == 4
    assert (groups[0][0].gen, groups[0][0].batch) == (8, 1)


def test_one_dtype_after_the_other() -> None:
    groups = replace(GRID, dtypes=["float32", "bfloat16"]).groups()
    assert [group[0].dtype for group in groups] == ["float32"] * 8 + ["bfloat16"] * 8


def test_the_baseline_comes_last() -> None:
    group = replace(GRID, baseline="ar").groups()[0]
    assert group[-1].cache == group[-1].spec == AUTOREGRESSIVE
    assert group[0].key != GRID.groups()[0][0].key


def test_blocks_are_no_longer_than_the_response() -> None:
    assert [g[0].block for g in replace(GRID, block=12, gens=[12, 24], prompts=[4], batches=[1]).groups()] == [12, 12]
    assert replace(GRID, block=None, gens=[24], prompts=[4], batches=[1]).groups()[0][0].block == 24
    assert replace(GRID, block=32, gens=[16], prompts=[4], batches=[1]).groups()[0][0].block == 16


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"prompts": [0]}, "prompt_length=0 must be a whole number of at least 1"),
        ({"batches": [-1]}, "batch=-1"),
        ({"repeats": -1}, "repeats=-1 must be a whole number of at least 0"),
        ({"gens": [12]}, "gen_length=12 must be a multiple of block_length=8; use gen_length=16"),
        ({"baseline": "gpt"}, "baseline='gpt' is unknown; known: ar"),
        ({"seed": -1}, "seed=-1"),
        ({"quantize": "int3"}, "quantize='int3' is unknown; known: int8, int4"),
    ],
)
def test_refused(change: dict[str, object], expected: str) -> None:
    with pytest.raises(SettingError, match=expected):
        replace(GRID, **change).groups()  # type: ignore[arg-type]


@pytest.mark.parametrize("change", [{"caches": ["nope"]}, {"decoder": "nope"}])
def test_unknown_names(change: dict[str, object]) -> None:
    with pytest.raises(SpecError, match="unknown name 'nope'"):
        replace(GRID, **change).groups()  # type: ignore[arg-type]


def test_a_cell_is_a_generation() -> None:
    cell = replace(GRID, stop_at_eos=True).groups()[0][1]
    got = settings_of(cell)
    assert (got.gen_length, got.block_length, got.steps, got.stop_at_eos) == (8, 8, 8, True)
    assert repr(got.cache).startswith("Decode(")
