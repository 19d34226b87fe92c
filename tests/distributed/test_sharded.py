"""A model over two ranks is the model: same tokens, half of the memory, the same on both ranks."""

from __future__ import annotations

from typing import Any

import pytest

import dkv
from dkv.distributed.group import Team
from dkv.layers.tensor_parallel import share_of
from tests.support.ranks import CASES, generated, held

MODELS = ("llada", "tied", "dream", "tiny")


@pytest.fixture(scope="session")
def alone(directories: dict[str, str]) -> dict[str, dkv.DiffusionLM]:
    return {name: dkv.load(place, device="cpu", dtype="float32", audit=True) for name, place in directories.items()}


@pytest.mark.parametrize("name", MODELS)
def test_tokens_are_those_of_one_process(
    name: str, two_ranks: dict[str, Any], alone: dict[str, dkv.DiffusionLM]
) -> None:
    first, second = two_ranks["tokens"][name]
    expected = generated(alone[name])
    assert first.keys() == set(CASES)
    for case in CASES:
        assert first[case] == expected[case], case
    assert first == second


def test_cases_differ(alone: dict[str, dkv.DiffusionLM]) -> None:
    """Else equal tokens would say little."""
    responses = generated(alone["llada"])
    assert len({str(ids) for ids in responses.values()}) >= 4
    assert all(len(set(ids)) > 3 for both in responses.values() for ids in both)


@pytest.mark.parametrize("name", MODELS)
def test_each_rank_holds_half(name: str, two_ranks: dict[str, Any], alone: dict[str, dkv.DiffusionLM]) -> None:
    weights, memory = held(alone[name])
    shares = two_ranks["held"][name]
    assert [share[1] for share in shares] == [memory / 2] * 2
    if name == "tied":  # 273 rows and 51 channels: one more for the first rank
        assert sum(share[0] for share in shares) == weights
        assert 0 < shares[0][0] - shares[1][0] < 0.05 * weights
    else:
        assert [share[0] for share in shares] == [weights / 2] * 2


def test_a_seed_that_nobody_gave_is_the_same_on_every_rank(two_ranks: dict[str, Any]) -> None:
    first, second = two_ranks["drawn"]
    assert first == second
    assert first[0] > 0


def test_shares_are_those_of_dtensor(two_ranks: dict[str, Any]) -> None:
    assert two_ranks["placed"] == [[True] * 5] * 2


def test_what_does_not_fit_is_one_line(two_ranks: dict[str, Any]) -> None:
    assert two_ranks["errors"] == {
        "three": "tensor_parallel=3 must be the number of processes, 2; start 3",
        "save": "tensor_parallel=2: this process has a share of the model; save it loaded whole",
        "one device": "device='cuda:0' is one device, and tensor_parallel=2 needs 2; use 'cuda'",
    }


def test_heads_that_cannot_be_shared_out_are_one_line(alone: dict[str, dkv.DiffusionLM]) -> None:
    with pytest.raises(dkv.SettingError) as caught:
        share_of(alone["dream"].model.config, Team(0, 4))
    assert str(caught.value) == ("tensor_parallel=4 must divide the model's kv_heads=2 (and heads=4); use one of 1, 2")


@pytest.mark.parametrize("value", [0, -1, 1.5, True, "2"])
def test_nonsense_is_refused(value: Any) -> None:
    with pytest.raises(dkv.SettingError, match=r"tensor_parallel=.* must be a whole number of at least 1"):
        dkv.load("tiny", tensor_parallel=value)


def test_without_a_group_it_says_how_to_start_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(dkv.SettingError, match=r"tensor_parallel=2 needs 2 processes.*torchrun --nproc-per-node 2"):
        dkv.load("tiny", device="cpu", tensor_parallel=2)
