"""Two ranks, started once, that do all that the tests of the sharded network ask for."""

from __future__ import annotations

from typing import Any

import pytest

from dkv.distributed.launch import launch
from dkv.tiny import MODELS
from tests.support.checkpoints import config_of, dream_config_of, write_checkpoint
from tests.support.ranks import survey


@pytest.fixture(scope="session")
def directories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Checkpoints: as published, shared keys with a tied head and an odd vocabulary, Dream in two files, embedded."""
    place = tmp_path_factory.mktemp("parallel")
    odd = config_of(n_kv_heads=2, weight_tying=True, n_layers=3, embedding_size=273, mlp_hidden_size=51)
    return {
        "llada": str(write_checkpoint(place / "llada")),
        "tied": str(write_checkpoint(place / "tied", odd, seed=5)),
        "dream": str(write_checkpoint(place / "dream", dream_config_of(), seed=3)),
        "tiny": str(MODELS["tiny"]),
    }


@pytest.fixture(scope="session")
def two_ranks(directories: dict[str, str]) -> dict[str, Any]:
    """What two ranks found."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONWARNINGS", "error")
        patch.setenv("OMP_NUM_THREADS", "1")
        return launch(2, survey, directories)
