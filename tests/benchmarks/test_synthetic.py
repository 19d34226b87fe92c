"""The synthetic checkpoints have the published shapes, and load."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

import dkv
from dkv.checkpoints.safetensors_header import read_headers
from dkv.models import architecture_of

PROGRAM = Path(__file__).parents[2] / "benchmarks" / "synthetic.py"
_spec = importlib.util.spec_from_file_location("synthetic", PROGRAM)
assert _spec is not None
assert _spec.loader is not None
synthetic = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(synthetic)

SMALL = {
    "llada": {"d_model": 64, "n_heads": 4, "n_kv_heads": 4, "mlp_hidden_size": 96},
    "dream": {"hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 96},
}


@pytest.mark.parametrize(("family", "parameters"), [("llada", 8_015_581_184), ("dream", 7_615_616_512)])
def test_the_shapes_are_the_published_ones(family: str, parameters: int) -> None:
    module = architecture_of(synthetic.CONFIGS[family])
    names = module.weight_map(module.configure(synthetic.CONFIGS[family]))
    assert names.parameters == parameters
    assert sum(torch.Size(shape).numel() for _, shape in names.shapes()) == parameters


@pytest.mark.parametrize("family", synthetic.CONFIGS)
def test_a_narrow_one_loads_and_generates(family: str, tmp_path: Path) -> None:
    raw = synthetic.config_of(family, 1, "bfloat16") | SMALL[family]
    synthetic.write(tmp_path / "made", raw, torch.bfloat16, 4_000_000)
    stored = read_headers(tmp_path / "made")
    assert {tensor.dtype for tensor in stored.values()} == {"BF16"}
    assert len({tensor.path for tensor in stored.values()}) > 1
    lm = dkv.load(tmp_path / "made", device="cpu", dtype="float32")
    (one,) = lm.generate([[1, 2, 3]], gen_length=8, stop_at_eos=False, cache="none")
    assert len(set(one.token_ids)) > 2  # the weights are random, not constant
