"""Models that dkv does not implement are refused by name, whatever their `model_type` says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import dkv
from dkv.errors import CheckpointError, UnsupportedModelError
from dkv.models import architecture_of, known_architectures, llada
from dkv.models.unsupported import REFUSED
from tests.support.checkpoints import CONFIG


@pytest.mark.parametrize("name", REFUSED)
def test_each_is_refused_with_its_reason(name: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({**CONFIG, "architectures": [name]}))
    with pytest.raises(UnsupportedModelError, match=f"architectures='{name}' is not supported: it") as caught:
        dkv.load(tmp_path)
    assert str(caught.value).endswith(REFUSED[name])


def test_none_is_both_refused_and_known() -> None:
    assert not REFUSED.keys() & known_architectures().keys()


def test_the_mixture_of_experts_that_calls_itself_llada() -> None:
    with pytest.raises(UnsupportedModelError, match="mixture of experts"):
        architecture_of({"model_type": "llada", "architectures": ["LLaDAMoEModelLM"]})


@pytest.mark.parametrize(
    "mapped",
    [{"AutoModel": "modeling_llada.LLaDAModelLM"}, {"AutoModelForCausalLM": "GSAI-ML/x--modeling_llada.LLaDAModelLM"}],
)
def test_the_mapped_class_stands_in_for_a_missing_name(mapped: dict[str, str]) -> None:
    assert architecture_of({"auto_map": mapped}) is llada
    with pytest.raises(UnsupportedModelError, match="SDARForCausalLM"):
        architecture_of({"architectures": ["SDARForCausalLM"], "auto_map": mapped})


@pytest.mark.parametrize("raw", [{}, {"architectures": []}, {"architectures": [3]}, {"auto_map": {"AutoModel": 3}}])
def test_without_any_name_there_is_no_guess(raw: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match="architectures is missing"):
        architecture_of({"model_type": "llada", **raw})


def test_a_name_that_is_in_no_list_is_said() -> None:
    with pytest.raises(CheckpointError, match=r"architectures='LLaDAModelLM' must be a list of names; write \['LLaDA"):
        architecture_of({"architectures": "LLaDAModelLM"})
