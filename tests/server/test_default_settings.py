"""What a request gets where it says nothing: who is asked first, and what gives way."""

from __future__ import annotations

from typing import Any, cast

import pytest

import dkv
from dkv.checkpoints.tuned_settings import Tuned
from dkv.errors import SettingError
from dkv.params import BLOCK_LENGTH, SERVED, Options
from dkv.server.served_defaults import Defaults, check_options, steps_for, told

TUNED = Tuned("dkv-fill:rows=8", "threshold:tau=0.99", "budget", 0.01, 100, 9.0, "0", 32)


def defaults(tuned: Tuned | None = TUNED, **operator: Any) -> Defaults:
    def auto() -> Tuned:
        if tuned is None:
            raise SettingError("cache='auto': nothing was tuned for this model yet")
        return tuned

    chosen = cast("Options", operator)
    free = chosen.get("cache") in (None, "auto") and "decoder" not in chosen
    return Defaults("confidence", tuned if free else None, chosen, auto)


def ran(known: Defaults, /, infills: bool = False, **asked: Any) -> dict[str, tuple[Any, str]]:
    """Value and source of each setting that is not left to what it always is."""
    filled = known.fill(cast("Options", asked), infills)
    assert set(filled.sources) == set(SERVED)
    left = ("temperature", "cfg_scale", "eos_penalty", "repetition_penalty")
    return {name: (value, filled.sources[name]) for name, value in dict(filled.options).items() if name not in left}


def test_a_model_that_was_never_tuned_gets_what_costs_no_accuracy() -> None:
    assert ran(defaults(None)) == {
        "cache": ("none", "default"), "decoder": ("confidence", "default"), "grow": (True, "default"),
        "block_length": (BLOCK_LENGTH, "default"),
    }  # fmt: skip


def test_what_was_tuned_comes_before_the_built_in() -> None:
    assert ran(defaults()) == {
        "cache": (TUNED.cache, "tuned"), "decoder": (TUNED.decoder, "tuned"), "grow": (True, "default"),
        "block_length": (32, "tuned"),
    }  # fmt: skip


def test_the_operator_comes_before_what_was_tuned_and_the_request_before_the_operator() -> None:
    known = defaults(cache="dkv-decode", block_length=16, temperature=0.5)
    assert ran(known)["cache"] == ("dkv-decode", "operator")
    assert ran(known)["decoder"] == ("confidence", "default")
    assert ran(known)["block_length"] == (16, "operator")
    asked = Options(cache="none", decoder="random", block_length=8, temperature=0.0, grow=False)
    mine = known.fill(asked)
    assert set(mine.sources.values()) == {"request", "default"}
    assert mine.options == {**asked, "cfg_scale": 0.0, "eos_penalty": 0.0, "repetition_penalty": 1.0}


@pytest.mark.parametrize("asked", [{"cache": "dkv-greedy"}, {"decoder": "random"}])
def test_a_pair_was_tuned_as_a_pair(asked: dict[str, Any]) -> None:
    """Half of it with something else was never measured."""
    found = ran(defaults(), **asked)
    assert {found["cache"][1], found["decoder"][1]} == {"request", "default"}


def test_auto_asks_for_what_was_tuned() -> None:
    assert ran(defaults(cache="dkv-decode"), cache="auto")["cache"] == (TUNED.cache, "tuned")
    assert ran(defaults(), cache="auto", decoder="random")["decoder"] == ("random", "request")
    assert ran(defaults(cache="auto"))["decoder"] == (TUNED.decoder, "tuned")
    with pytest.raises(SettingError, match="nothing was tuned"):
        ran(defaults(None), cache="auto")


def test_steps_are_those_of_a_canvas_that_is_there_as_a_whole() -> None:
    assert ran(defaults(), steps=8)["grow"] == (False, "request")
    assert "block_length" not in ran(defaults(), steps=8)
    assert ran(defaults(steps=8))["grow"] == (False, "operator")
    assert ran(defaults(steps=8), grow=True)["grow"] == (True, "request")
    assert ran(defaults(grow=True), steps=8)["grow"] == (True, "operator")


def test_a_gap_has_its_own_canvas() -> None:
    known = defaults(grow=True, block_length=32, steps=4, temperature=0.5)
    assert ran(known, infills=True) == {
        "cache": ("none", "default"), "decoder": ("confidence", "default"), "grow": (False, "default"),
    }  # fmt: skip
    assert known.fill({}, infills=True).options["temperature"] == 0.5
    assert ran(known, infills=True, block_length=4)["block_length"] == (4, "request")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("cache", "nothing"), ("decoder", "nothing"), ("block_length", 0), ("steps", 0), ("temperature", -1.0),
        ("temperature", float("nan")), ("top_p", 0.0), ("top_k", 0), ("cfg_scale", -1.0),
    ],
)  # fmt: skip
def test_a_setting_that_no_request_could_have_is_refused_by_its_name(name: str, value: Any) -> None:
    with pytest.raises(SettingError, match=f"^{name}="):
        check_options(cast("Options", {name: value}))


def test_what_was_tuned_and_cannot_be_used_is_one_line(lm: dkv.DiffusionLM, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = Tuned("gone:rows=8", "confidence", "budget", 0.01, 100, 9.0, "0")
    monkeypatch.setattr("dkv.server.served_defaults.kept_for", lambda *_: gone)
    with pytest.raises(SettingError, match=r"^what was tuned for this model cannot be used \(cache='gone:rows=8'"):
        Defaults.of(lm)
    assert Defaults.of(lm, {"cache": "none"}).tuned is None


@pytest.mark.parametrize(("steps", "found"), [(1, 2), (64, 64), (65, 66), (128, 128), (500, 128)])
def test_steps_are_shared_out_evenly(steps: int, found: int) -> None:
    assert steps_for(steps, 128, 64) == found


@pytest.mark.parametrize(
    ("known", "says"),
    [
        (defaults(None), "cache=none (default), decoder=confidence (default)"),
        (defaults(), "cache=dkv-fill:rows=8 (tuned), decoder=threshold:tau=0.99 (tuned)"),
        (defaults(temperature=0.5), "temperature=0.5 (operator)"),
    ],
)
def test_the_server_says_what_it_uses(known: Defaults, says: str) -> None:
    line = told(known, "there")
    assert says in line
    assert ("; dkv tune --model there finds" in line) == (known.tuned is None)
