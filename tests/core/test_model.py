"""Settings of torch around a call change nothing in what it gives, and come back afterwards; copies and pickles."""

from __future__ import annotations

import copy
import pickle
import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

import dkv
from dkv.core.model import shielded
from dkv.errors import BusyError, DkvError, SpecError
from dkv.lab.eval.likelihood import Likelihood, Pair

Context = Callable[[], AbstractContextManager[object]]


@contextmanager
def changed(set_it: Callable[[], object], back: Callable[[], object]) -> Iterator[None]:
    set_it()
    try:
        yield
    finally:
        back()


def default_dtype(dtype: torch.dtype) -> Context:
    return lambda: changed(lambda: torch.set_default_dtype(dtype), lambda: torch.set_default_dtype(torch.float32))


def everything() -> AbstractContextManager[object]:
    stack = ExitStack()
    for name in ("autocast bfloat16", "default float64", "default device meta", "deterministic"):
        stack.enter_context(CONTEXTS[name]())
    return stack


CONTEXTS: dict[str, Context] = {
    "autocast bfloat16": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "autocast float16": lambda: torch.autocast("cpu", dtype=torch.float16),
    "default float64": default_dtype(torch.float64),
    "default bfloat16": default_dtype(torch.bfloat16),
    "default float16": default_dtype(torch.float16),
    "default device meta": lambda: changed(
        lambda: torch.set_default_device("meta"), lambda: torch.set_default_device(None)
    ),
    "with device meta": lambda: torch.device("meta"),
    "gradients": torch.enable_grad,
    "no gradients": torch.no_grad,
    "inference": torch.inference_mode,
    "anomaly": lambda: torch.autograd.set_detect_anomaly(True),
    "deterministic": lambda: changed(
        lambda: torch.use_deterministic_algorithms(True), lambda: torch.use_deterministic_algorithms(False)
    ),
    "everything": everything,
}
OPTIONS: list[dict[str, Any]] = [
    {"cache": "none"},
    {"cache": "dllm-cache:kp=4,kr=2", "decoder": "entropy:alg_temp=0.3"},
    {"cfg_scale": 1.5},
]


def made(lm: dkv.DiffusionLM) -> list[object]:
    """Tokens of every way to generate."""
    warm: dict[str, Any] = {"gen_length": 8, "temperature": 0.7, "top_p": 0.9, "seed": 3}
    found: list[object] = [
        [g.token_ids for g in lm.generate([[1, 2], [3]], **{**warm, **options})] for options in OPTIONS
    ]
    found += [frame.token_ids for frame in lm.stream([1, 2], **warm)]
    found.append(lm.infill([1, 2], [3], gen_length=4, seed=3).token_ids)
    found.append(Likelihood(lm.model, samples=4).of([Pair((1, 2), (3, 4, 5))]))
    return found


@pytest.mark.filterwarnings("ignore:Anomaly Detection")
@pytest.mark.parametrize("name", CONTEXTS)
def test_results_are_the_same(name: str, bare_lm: dkv.DiffusionLM) -> None:
    expected = made(bare_lm)
    with CONTEXTS[name]():
        before = (torch.get_default_dtype(), torch.get_default_device(), torch.is_autocast_enabled("cpu"))
        assert made(bare_lm) == expected
        assert (torch.get_default_dtype(), torch.get_default_device(), torch.is_autocast_enabled("cpu")) == before
    assert torch.get_default_dtype() == torch.float32


@pytest.mark.parametrize("name", CONTEXTS)
def test_a_model_loads_the_same(name: str, bare: Path, bare_lm: dkv.DiffusionLM) -> None:
    with CONTEXTS[name]():
        lm = dkv.load(bare, dtype="float32")
    assert lm.generate([[1, 2]], gen_length=8, seed=3)[0].token_ids == (
        bare_lm.generate([[1, 2]], gen_length=8, seed=3)[0].token_ids
    )


def test_a_consumer_of_a_stream_keeps_its_own_settings(bare_lm: dkv.DiffusionLM) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for _ in bare_lm.stream([1, 2], gen_length=4):
            assert torch.is_autocast_enabled("cpu")
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16


def test_what_was_set_comes_back_after_an_error() -> None:
    seen = []

    @shielded()
    def fails() -> None:
        seen.append(torch.get_default_dtype())
        raise ZeroDivisionError

    with default_dtype(torch.float64)():
        with pytest.raises(ZeroDivisionError):
            fails()
        assert [*seen, torch.get_default_dtype()] == [torch.float32, torch.float64]
    with default_dtype(torch.float64)():
        with shielded():
            pass
        assert torch.get_default_dtype() == torch.float64


def test_the_callers_random_numbers_are_left_alone(bare_lm: dkv.DiffusionLM) -> None:
    before = torch.get_rng_state(), random.getstate()
    made(bare_lm)
    bare_lm.generate([[1]], gen_length=2, temperature=1.0)
    assert torch.get_rng_state().equal(before[0])
    assert random.getstate() == before[1]


@pytest.mark.parametrize("name", ["tiny", "bare"])
def test_a_deep_copy_generates_the_same(name: str, bare: Path) -> None:
    lm = dkv.load(bare if name == "bare" else name, dtype="float32")
    for other in (copy.copy(lm), copy.deepcopy(lm), copy.deepcopy({"lm": [lm]})["lm"][0]):
        assert other is not lm
        results = [one.generate([[1, 2]], gen_length=4, temperature=1.0, seed=1)[0].token_ids for one in (lm, other)]
        assert results[0] == results[1]


def test_pickling_a_model_says_what_to_do_instead(bare_lm: dkv.DiffusionLM, tmp_path: Path) -> None:
    message = r"a loaded model is not pickled; dkv\.load it where it is needed"
    with pytest.raises(dkv.SettingError, match=message):
        pickle.dumps(bare_lm)
    with pytest.raises(dkv.SettingError, match=message):
        torch.save(bare_lm, tmp_path / "x")


def test_results_requests_and_errors_are_copied_and_pickled(lm: dkv.DiffusionLM) -> None:
    *_, frame = lm.stream("a", gen_length=4, trace=True, decoder="threshold")
    things = [frame, frame.generation, lm.request("a", gen_length=4), lm.infill_canvas("a{mask:2}b")]
    for thing in things:
        for again in (pickle.loads(pickle.dumps(thing)), copy.deepcopy(thing), copy.copy(thing)):
            assert again == thing


@pytest.mark.parametrize("kind", [SpecError, BusyError, *DkvError.__subclasses__()])
def test_errors_survive_pickling(kind: type[DkvError]) -> None:
    error = kind("a line")
    error.add_note("noted")
    for again in (pickle.loads(pickle.dumps(error)), copy.deepcopy(error)):
        assert type(again) is kind
        assert str(again) == "a line"
        assert vars(again) == vars(error)
