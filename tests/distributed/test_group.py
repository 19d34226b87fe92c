"""Which device a rank takes, on machines that this one is not."""

from __future__ import annotations

import pytest
import torch

from dkv.distributed.group import lost_ranks, rank_device
from dkv.errors import RankError, SettingError


def machine(patch: pytest.MonkeyPatch, gpus: int, rank: int) -> None:
    patch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    patch.setattr(torch.cuda, "device_count", lambda: gpus)
    patch.setenv("LOCAL_RANK", str(rank))
    patch.delenv("LOCAL_WORLD_SIZE", raising=False)


@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_each_rank_has_a_gpu_of_its_own(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, gpus=2, rank=1)
    assert rank_device(device, 2) == "cuda:1"


def test_without_gpus_the_device_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, gpus=0, rank=1)
    assert rank_device("auto", 2) == "auto"
    machine(monkeypatch, gpus=1, rank=1)
    assert rank_device("cpu", 2) == "cpu"


def test_too_few_gpus_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, gpus=1, rank=0)
    with pytest.raises(
        SettingError, match=r"^tensor_parallel=2 needs 2 GPUs here and there are 1; or use device='cpu'$"
    ):
        rank_device("auto", 2)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")  # two machines with one each
    assert rank_device("auto", 2) == "cuda:0"


def test_what_a_collective_raises_is_one_line() -> None:
    with (
        pytest.raises(RankError, match=r"^tensor_parallel=2: another rank ended or did not answer \(closed by peer\)$"),
        lost_ranks(2),
    ):
        raise RuntimeError("closed\n  by peer")
