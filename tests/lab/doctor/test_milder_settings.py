"""The settings that the doctor tries beside the given ones."""

from __future__ import annotations

import pytest

from dkv.caches import make_cache
from dkv.core.policy import Plan, Step
from dkv.lab.doctor.milder_settings import variants_of


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
