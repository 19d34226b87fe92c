"""Each finding on evidence made by hand: where it is trouble, where it is fine, and what it advises."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from dkv.caches import make_cache
from dkv.lab.doctor.cache_errors import Errors
from dkv.lab.doctor.findings import AGREEMENT, FLIPS, STATUSES, Evidence, Finding, FindingThreshold, findings_of
from dkv.lab.doctor.timing import Cost


def errors(
    decoded: tuple[float, ...] = (0.0, 0.001),
    prompt: tuple[float, ...] = (0.0, 0.001),
    features: tuple[float, ...] = (),
    flipped: int = 0,
    decided: int = 200,
    kl: float = 0.001,
) -> Errors:
    """Mean errors by layer, of ten pairs each."""
    kinds = {"decoded": decoded, "prompt": prompt, "features": features}
    return Errors(
        decided=decided,
        flipped=flipped,
        rows=100,
        divergence=100 * kl,
        slots={kind: torch.tensor(values) * 10 for kind, values in kinds.items() if values},
        counts={kind: 10 for kind, values in kinds.items() if values},
        ages={1: (0.01, 10), 4: (0.1, 10)},
    )


FAST = Cost(fixed=0.001, per_row=1e-4, seconds=0.011, rows=100, none_seconds=0.041, none_rows=400, steps=20)
SLOW = Cost(fixed=0.009, per_row=1e-5, seconds=0.010, rows=100, none_seconds=0.013, none_rows=400, steps=20)


def evidence(own: Errors, spec: str = "dkv-decode", **variants: Errors) -> Evidence:
    """Of one cache; variants as refresh_4=errors."""
    return Evidence(
        policy=make_cache(spec),
        lengths=[10, 20, 30],
        errors=own,
        variants={name.replace("_", "="): v for name, v in variants.items()},
        agreement=[1.0, 1.0, 1.0],
        fresh=None,
        cost=FAST,
        batch=3,
        steps=64,
    )


def finding(e: Evidence, name: str) -> Finding:
    (found,) = [f for f in findings_of(e) if f.name == name]
    return found


def test_all_is_fine_where_all_is_well() -> None:
    found = findings_of(evidence(errors()))
    assert [f.name for f in found] == ["settling", "quality", "overhead", "layers", "prompt"]
    assert {f.status for f in found} == {"fine"}
    assert {f.advice for f in found} == {"none"}
    assert all("n=" in f.measured for f in found)


@pytest.mark.parametrize(("value", "status"), [(0.004, "fine"), (0.02, "watch"), (0.2, "trouble")])
def test_settling(value: float, status: str) -> None:
    own = errors(decoded=(value, value))
    e = evidence(own, delay_2=errors(decoded=(value / 2, value / 2)), refresh_4=errors(decoded=(value, value * 0.8)))
    found = finding(e, "settling")
    assert found.status == status
    assert "n=10" in found.measured
    assert found.advice == ("none" if status == "fine" else f"delay=2: lowers it to {value / 2:.2g}")


def test_settling_advises_another_cache_where_no_setting_helps() -> None:
    own = errors(decoded=(0.2, 0.2))
    assert "another cache" in finding(evidence(own, delay_2=own), "settling").advice


@pytest.mark.parametrize(("flipped", "status"), [(0, "fine"), (2, "watch"), (10, "trouble")])
def test_quality_on_the_same_canvas(flipped: int, status: str) -> None:
    e = evidence(
        errors(flipped=flipped), "dllm-cache", rho_0=errors(flipped=flipped // 2), kr_3=errors(flipped=flipped)
    )
    found = finding(e, "quality")
    assert found.status == status
    assert f"{flipped}/200" in found.measured
    assert "KL" in found.measured
    assert found.advice == ("none" if status == "fine" else "rho=0: helps most here, more than kr=3")


@pytest.mark.parametrize(("agreed", "status"), [(1.0, "fine"), (0.95, "watch"), (0.5, "trouble")])
def test_quality_left_to_itself(agreed: float, status: str) -> None:
    e = replace(evidence(errors(kl=0.2), rho_1=errors(kl=0.1), kr_3=errors(kl=0.05)), agreement=[agreed] * 3)
    found = finding(e, "quality")
    assert found.status == status
    assert f"{agreed:.1%} of the tokens agree with no cache, n=3 prompts" in found.measured
    # flips tie, so the KL decides
    assert found.advice == ("none" if status == "fine" else "kr=3: helps most here, more than rho=1")


def test_quality_says_where_nothing_helps() -> None:
    bad = errors(flipped=50)
    assert "none of its settings helps" in finding(evidence(bad, refresh_4=bad), "quality").advice
    assert "no setting that would help" in finding(evidence(bad), "quality").advice
    assert finding(evidence(errors(decided=0)), "quality").status == "watch"


def test_overhead() -> None:
    assert finding(evidence(errors()), "overhead").status == "fine"
    found = finding(replace(evidence(errors(), "dllm-cache"), cost=SLOW), "overhead")
    assert found.status == "trouble"
    assert "1.30 times as fast, where the rows would allow 4.00" in found.measured
    assert "fixed 9 ms (90% of the step)" in found.measured
    # below 30% from 2100 rows on: 9 ms / 10 us * 0.7 / 0.3, which is 21 times the rows of 3 prompts
    assert "from about 63 prompts on (now 3)" in found.advice
    assert "decoder=threshold" in found.advice
    assert "cache=none" not in found.advice


@pytest.mark.parametrize("spec", ["dkv-decode", "dllm-cache", "dkv-pd", "dkv-greedy", "dkv-fill"])
def test_what_is_advised_against_time_costs_no_time(spec: str) -> None:
    """Nothing that computes more rows, whatever they cost here."""
    for cost in (SLOW, replace(SLOW, per_row=0.0), replace(SLOW, none_seconds=0.005)):
        e = replace(evidence(errors(), spec), cost=cost)
        advice = finding(e, "overhead").advice
        assert not [key for key in ("rho", "refresh", "rows", "window", "delay", "more time") if f"{key}" in advice
                    and "time hardly grows with rows" not in advice]  # fmt: skip
        assert "decoder" not in finding(replace(e, parallel=True), "overhead").advice


def test_a_cache_that_slows_down_is_trouble_whatever_the_fit_says() -> None:
    slower = replace(FAST, none_seconds=0.010)
    found = finding(replace(evidence(errors()), cost=slower), "overhead")
    assert found.status == "trouble"
    assert "cache=none, which is faster" in found.advice
    flat = finding(replace(evidence(errors()), cost=replace(SLOW, per_row=0.0)), "overhead")
    assert "time hardly grows with rows" in flat.advice


@pytest.mark.parametrize(("worst", "status"), [(0.004, "fine"), (0.03, "watch"), (0.3, "trouble")])
def test_layers(worst: float, status: str) -> None:
    own = errors(features=(0.0, 0.001, worst))
    e = evidence(own, "dllm-cache", rho_1=errors(features=(0.0, 0.001, worst / 3)), kp_1=errors(features=(0, 0, 0)))
    found = finding(e, "layers")
    assert found.status == status
    assert f"in layer 2: {worst:.2g}" in found.measured
    assert "attention plus FFN outputs" in found.measured
    assert found.advice == ("none" if status == "fine" else f"rho=1: lowers it to {worst / 3:.2g}")


def test_layers_of_a_cache_without_features_are_keys_and_values() -> None:
    found = finding(evidence(errors(decoded=(0.3, 0.001, 0.002))), "layers")
    assert (found.status, found.figures["worst"]) == ("trouble", 0)
    assert "keys and values" in found.measured
    first = evidence(errors(features=(0.3, 0.0)), "dllm-cache:first_layer=false")
    assert finding(first, "layers").advice.startswith("first_layer=true")


@pytest.mark.parametrize(("value", "status"), [(0.004, "fine"), (0.02, "watch"), (0.2, "trouble")])
def test_prompt_by_its_error(value: float, status: str) -> None:
    e = evidence(errors(prompt=(value, value)), refresh_4=errors(prompt=(value / 4, value / 4)))
    found = finding(e, "prompt")
    assert found.status == status
    assert "1+ 0.001, 4+ 0.01" in found.measured
    assert found.advice == ("none" if status == "fine" else f"refresh=4: lowers it to {value / 4:.2g}")


@pytest.mark.parametrize(("fresh", "status"), [(0.5, "fine"), (0.55, "watch"), (0.9, "trouble"), (0.2, "fine")])
def test_prompt_by_what_kp_costs_the_longest(fresh: float, status: str) -> None:
    e = replace(evidence(errors(), "dllm-cache:kp=100"), agreement=[1.0, 1.0, 0.5], fresh=[0.0, 0.0, fresh])
    found = finding(e, "prompt")
    assert found.status == status
    assert (
        f"(30 tokens and more, n=1) 50.0% of the tokens agree with no cache, and {fresh:.1%} with kp=1"
        in found.measured
    )
    # never renewed in 64 steps, so half of 100 would change nothing
    assert found.advice == ("none" if status == "fine" else "kp=32, or lower for prompts as long as these")


def test_thresholds_have_a_direction_and_a_reason() -> None:
    assert [FLIPS.status(v) for v in (0.0, 0.005, 0.02, float("nan"))] == ["fine", "watch", "trouble", "fine"]
    assert [AGREEMENT.status(v) for v in (1.0, 0.98, 0.9)] == ["fine", "watch", "trouble"]
    assert set(STATUSES) == {"fine", "watch", "trouble"}
    assert FindingThreshold(1, 2, "why").reason == "why"
