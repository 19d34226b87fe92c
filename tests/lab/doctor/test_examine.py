"""Whole examinations of small models: trouble that is provoked is found, and what is exact is fine."""

from __future__ import annotations

import pytest

import dkv
from dkv.caches import make_cache
from dkv.core.policy import Plan, Step
from dkv.errors import PromptError, SettingError
from dkv.lab.doctor.examine import Diagnosis, ExamineOptions, examine, variants_of
from dkv.lab.doctor.findings import Finding
from dkv.models import Transformer
from dkv.tiny import load_eval

SHORT = ExamineOptions(gen_length=16)
PROMPTS = [[1, 2, 3, 4], [5, 6, 7, 8, 9, 10], list(range(11, 40))]


def by_name(diagnosis: Diagnosis) -> dict[str, Finding]:
    return {finding.name: finding for finding in diagnosis.findings}


@pytest.fixture(scope="module")
def found(bare_lm: dkv.DiffusionLM) -> dict[str, dict[str, Finding]]:
    specs = ["dkv-decode:refresh=64,delay=0", "dllm-cache:rho=0,kr=1000,kp=1000", "dkv-decode:refresh=1",
             "dllm-cache:kp=1,kr=1"]  # fmt: skip
    return {d.cache: by_name(d) for d in examine(bare_lm, PROMPTS, specs, SHORT)}


def test_no_delay_and_no_refresh_is_trouble(found: dict[str, dict[str, Finding]]) -> None:
    mine = found["dkv-decode:refresh=64,delay=0"]
    assert mine["settling"].status == "trouble"
    assert mine["settling"].advice.startswith("delay=1")
    assert mine["quality"].status == "trouble"
    assert mine["layers"].status == "trouble"
    assert "delay=1" in mine["quality"].measured
    assert "refresh=32" in mine["quality"].measured


def test_recomputing_nothing_is_trouble(found: dict[str, dict[str, Finding]]) -> None:
    mine = found["dllm-cache:rho=0,kr=1000,kp=1000"]
    assert mine["quality"].status == "trouble"
    assert mine["quality"].figures["agreement"] < 0.9
    assert set(mine["quality"].figures["variants"]) == {"rho=0.1", "kr=500"}
    assert mine["layers"].status == "trouble"
    assert mine["prompt"].status in ("watch", "trouble")
    assert mine["prompt"].advice.startswith("kp=8")


@pytest.mark.parametrize("spec", ["dkv-decode:refresh=1", "dllm-cache:kp=1,kr=1"])
def test_what_is_exact_is_fine(found: dict[str, dict[str, Finding]], spec: str) -> None:
    mine = found[spec]
    assert {mine[name].status for name in ("settling", "quality", "layers", "prompt")} == {"fine"}
    assert mine["quality"].figures["agreement"] == 1.0
    assert mine["overhead"].figures["allowed"] == pytest.approx(1.0)


def test_a_model_too_small_for_its_cache_is_trouble(found: dict[str, dict[str, Finding]]) -> None:
    """Steps of two layers of 32 channels are all overhead, whatever the machine."""
    overhead = found["dllm-cache:rho=0,kr=1000,kp=1000"]["overhead"]
    assert overhead.status in ("watch", "trouble")  # how far, a busy machine decides
    assert overhead.figures["speedup"] < overhead.figures["allowed"]
    assert "batch" in overhead.advice


def test_texts_and_blocks_of_the_embedded_model() -> None:
    lm = dkv.load("tiny", dtype="float32")
    given = [example.prompt for example in load_eval("code")[:2]]
    asked = ExamineOptions(gen_length=32, block_length=16)
    trouble, fine = examine(lm, given, ["dkv-decode:refresh=64,delay=0,warmup=1", "dkv-decode:refresh=2"], asked)
    assert by_name(trouble)["settling"].status == "trouble"
    assert by_name(fine)["settling"].status == "fine"
    assert by_name(fine)["layers"].status == "fine"


def test_a_shifted_model_and_every_cache(dream: Transformer) -> None:
    lm = dkv.DiffusionLM(dream, None, audit=True)
    specs = [name for name in dkv.caches.known_caches() if name != "none"]
    found = examine(lm, PROMPTS[:2], specs, ExamineOptions(gen_length=8, block_length=4))
    assert [d.cache for d in found] == specs
    assert all(len(d.findings) == 5 for d in found)


def test_progress_is_told(bare_lm: dkv.DiffusionLM) -> None:
    notes: list[str] = []
    examine(bare_lm, PROMPTS[:1], ["dkv-pd"], ExamineOptions(gen_length=4), notes.append)
    assert notes == ["generating with each cache", "stepping beside no cache: 2 settings, 1 prompts", "timing steps"]


def test_what_cannot_be_examined_is_refused(bare_lm: dkv.DiffusionLM) -> None:
    with pytest.raises(SettingError, match="cache='none' has no trouble"):
        examine(bare_lm, PROMPTS, ["dkv-pd", "none"], SHORT)
    with pytest.raises(PromptError, match="no tokenizer"):
        examine(bare_lm, ["Hi"], ["dkv-pd"], SHORT)
    with pytest.raises(SettingError, match="gen_length=9 must be a multiple"):
        examine(bare_lm, PROMPTS, ["dkv-pd"], ExamineOptions(gen_length=9, block_length=4))


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("dkv-decode", {"refresh=4", "delay=2"}),
        ("dkv-decode:refresh=1", {"delay=2"}),
        ("dllm-cache", {"kp=1", "kr=3", "rho=0.5"}),
        ("dllm-cache:rho=0,kr=-1,kp=1", {"rho=0.1"}),
        ("dllm-cache:rho=-1", {"kp=1", "kr=3", "rho=0.1"}),
        ("dllm-cache:rho=1,kp=1,kr=1", set()),
        ("dkv-prefill", {"refresh=8"}),
        ("dkv-greedy:window=0", {"refresh=1", "window=4"}),
        ("fast-dual", set()),
    ],
)
def test_each_key_is_changed_by_one_step(spec: str, expected: set[str]) -> None:
    found = variants_of(make_cache(spec))
    assert set(found) == expected
    for name, policy in found.items():
        name_of = spec.partition(":")[0]
        key, _, value = name.partition("=")
        assert policy == make_cache(_with(spec, name_of, key, value))


def _with(spec: str, name: str, key: str, value: str) -> str:
    keys = dict(item.split("=") for item in spec.partition(":")[2].split(",") if item)
    return f"{name}:{','.join(f'{k}={v}' for k, v in (keys | {key: value}).items())}"


def test_a_cache_of_ones_own_needs_no_keys() -> None:
    class Own:
        def plan(self, step: Step) -> Plan:
            return Plan(step.canvas.live)

    assert variants_of(Own()) == {}
