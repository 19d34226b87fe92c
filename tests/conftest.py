"""Shared fixtures: a tiny random LLaDA checkpoint on disk, with and without a tokenizer, and what is loaded from it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings

import dkv
from dkv.accel.compile_report import CompileReport
from dkv.accel.native_logits import native_logit_ops
from dkv.core.sampling import LogitOps
from dkv.distributed.launch import launch
from dkv.models import Transformer, load_model
from dkv.tiny import MODELS
from tests.support.checkpoints import (
    CONFIG,
    EOS,
    EOT,
    config_of,
    dream_config_of,
    tensors_of,
    write_checkpoint,
    write_tokenizer,
)
from tests.support.processor import header
from tests.support.ranks import survey

hypothesis_settings.register_profile(
    "dkv",
    deadline=None,
    derandomize=True,
    max_examples=25,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
hypothesis_settings.load_profile("dkv")

# On tensors this small threads only wait for each other; on a machine with other work they do so for minutes. Programs
# that tests start are told the same.
torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")

REFERENCE = Path(__file__).parent / "reference"


def pytest_report_header() -> list[str]:
    """The processor and the kernels in use: what a failure in the last bits depends on."""
    return header()


@pytest.fixture(scope="session")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint directory without a tokenizer. Read only."""
    return write_checkpoint(tmp_path_factory.mktemp("bare"))


@pytest.fixture(scope="session")
def spoken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same weights with a tokenizer and a chat template. Read only."""
    return write_tokenizer(write_checkpoint(tmp_path_factory.mktemp("spoken")))


@pytest.fixture(scope="session")
def grouped(tmp_path_factory: pytest.TempPathFactory) -> Transformer:
    """A model whose queries share keys and values in pairs and whose head is its embedding."""
    config = config_of(n_kv_heads=2, weight_tying=True, n_layers=3)
    directory = write_checkpoint(tmp_path_factory.mktemp("grouped"), config, seed=5)
    return load_model(directory, torch.device("cpu"), torch.float32)


@pytest.fixture(scope="session")
def model(bare: Path) -> Transformer:
    """The network of `bare` in float32."""
    return load_model(bare, torch.device("cpu"), torch.float32)


@pytest.fixture(scope="session")
def dream() -> Transformer:
    """A small random Dream in float32: grouped keys, biases, and rows that predict their right neighbour."""
    return load_model(REFERENCE / "dkv" / "dream", torch.device("cpu"), torch.float32)


@pytest.fixture(scope="session")
def lm(spoken: Path) -> dkv.DiffusionLM:
    """`spoken` in float32, audited."""
    return dkv.load(spoken, device="cpu", dtype="float32", audit=True)


@pytest.fixture(scope="session")
def bare_lm(bare: Path) -> dkv.DiffusionLM:
    """`bare` in float32, audited: token ids only."""
    return dkv.load(bare, device="cpu", dtype="float32", audit=True)


@pytest.fixture(scope="session")
def reference() -> Path:
    """The directory of the published programs' traces."""
    return REFERENCE


@pytest.fixture
def two_threads() -> Iterator[None]:
    """torch with two threads, for one test."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def built() -> LogitOps:
    """What the C compiler makes, or torch's where it makes nothing."""
    return native_logit_ops(CompileReport())


@pytest.fixture
def built_once(built: LogitOps, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `load(compile=True)` take what was built before. The compiler works for a second at every call, and that it
    is called is what test_native_logits.py tests."""
    monkeypatch.setattr("dkv.accel.backend.native_logit_ops", lambda _: built)


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


@pytest.fixture(scope="session")
def ending(tmp_path_factory: pytest.TempPathFactory) -> dkv.DiffusionLM:
    """A random model that likes to end its text, at places that depend on the prompt."""
    tensors = tensors_of(CONFIG, seed=1)
    for token in (EOS, EOT):
        tensors["model.transformer.ff_out.weight"][token] *= 1.6
    directory = write_tokenizer(write_checkpoint(tmp_path_factory.mktemp("ending"), tensors=tensors))
    return dkv.load(directory, device="cpu", dtype="float32", audit=True)
