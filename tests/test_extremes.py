"""Every number of every spec and of every setting, at the edges: refused in one line, or of no more cost than usual."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import dkv
from dkv.caches import known_caches, make_cache
from dkv.core.registry import keys_of
from dkv.decoders import known_decoders, make_decoder
from dkv.errors import SettingError
from tests.support.checkpoints import MASK

EDGES = [
    "0", "1", "-1", str(1 << 31), str((1 << 31) - 1), str(1 << 62), str(1 << 63), str(-(1 << 63)), str(1 << 200),
    "1e308", "-1e308", "5e-324", "1e-300", "1e-30", "0.999999999", "nan", "inf", "-inf", "",
    "9" * 5000, "1" + "0" * 400,
]  # fmt: skip
KEYS = [
    (kind, name, key)
    for kind, known in (("cache", known_caches()), ("decoder", known_decoders()))
    for name, made in known.items()
    for key in keys_of(made)
]


class Work(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts operations, and the numbers that they make."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations = self.numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        self.operations += 1
        self.numbers += made.numel() if isinstance(made, torch.Tensor) else 0
        return made


def run(lm: dkv.DiffusionLM, **options: Any) -> tuple[dkv.Generation, Work]:
    with Work() as work:
        (result,) = lm.generate(
            [[1, 2, 3]], gen_length=8, stop_at_eos=False, **{"seed": 1, "block_length": 4, **options}
        )
    return result, work


def is_sound(result: dkv.Generation, work: Work, usual: Work) -> None:
    """A mask is never an answer, and nothing costs more than many times what it usually does."""
    assert MASK not in result.token_ids
    assert work.operations < 8 * usual.operations
    assert work.numbers < 8 * usual.numbers


@pytest.fixture(scope="module")
def usual(lm: dkv.DiffusionLM) -> Work:
    """The dearest of the published ways, at as many steps as positions."""
    return max((run(lm, cache=c)[1] for c in ("none", "dkv-greedy", "dllm-cache")), key=lambda work: work.operations)


def refusal(call: Callable[[], Any]) -> str | None:
    """The line of a call that refuses its argument; None for one that takes it."""
    try:
        call()
    except SettingError as error:
        return str(error)
    return None


def is_short(line: str, *names: str) -> bool:
    """Whether a line is one, and names what it is about."""
    return "\n" not in line and len(line) < 400 and any(name in line for name in names)


@pytest.mark.parametrize(("kind", "name", "key"), KEYS)
def test_a_key_at_the_edges(lm: dkv.DiffusionLM, usual: Work, kind: str, name: str, key: str) -> None:
    make: Any = make_cache if kind == "cache" else make_decoder
    ran = 0
    for value in EDGES:
        spec = f"{name}:{key}={value}"
        line = refusal(lambda spec=spec: make(spec))  # type: ignore[misc]
        if line is not None:
            assert is_short(line, key, name)
            continue
        options = {"temperature": 0.7, "cfg_scale": 0.5} if ran % 2 else {}
        is_sound(*run(lm, **{kind: spec}, **options), usual)
        ran += 1
    assert ran or key in ("choose", "shift", "similarity", "first_layer", "fixed", "published")


NUMBERS: list[Any] = [
    0, 1, -1, 1 << 31, (1 << 31) - 1, 1 << 62, 1 << 63, -(1 << 63), 1 << 200, 10**5000, 1e6, 1e308, -1e308, 5e-324,
    1e-300, 1e-30, 0.5, math.nan, math.inf, -math.inf, "", None, [], {},
]  # fmt: skip
FIELDS = (
    "temperature", "top_k", "top_p", "cfg_scale", "eos_penalty", "min_tokens", "seed", "steps", "block_length",
)  # fmt: skip


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("decoder", ["confidence", "entropy"])
def test_a_setting_at_the_edges(lm: dkv.DiffusionLM, usual: Work, field: str, decoder: str) -> None:
    more = {} if field == "temperature" else {"temperature": 0.5}
    for value in NUMBERS:
        options = {"decoder": decoder, **more, field: value}
        line = refusal(lambda options=options: lm.request([1, 2, 3], gen_length=8, **{"block_length": 4, **options}))  # type: ignore[misc]
        if line is not None:
            assert is_short(line, field)
            continue
        result, work = run(lm, **options)
        assert MASK not in result.token_ids
        assert work.operations < 40 * usual.operations  # as many times the steps as are taken


@pytest.mark.parametrize("value", NUMBERS, ids=range(len(NUMBERS)))
def test_a_length_at_the_edges(lm: dkv.DiffusionLM, value: Any) -> None:
    if value == 1:
        assert len(lm.generate([[1]], gen_length=value)[0].token_ids) == 1
        return
    with pytest.raises((dkv.SettingError, dkv.PromptError)) as caught:
        lm.generate([[1]], gen_length=value)
    assert len(str(caught.value)) < 400


def test_steps_have_an_end(lm: dkv.DiffusionLM) -> None:
    assert lm.generate([[1]], gen_length=2, steps=32)[0].stats.forwards <= 32
    for steps in (33, (1 << 31) - 1):
        with pytest.raises(SettingError, match=f"steps={steps} must be at most 16 for each of gen_length=2 positions"):
            lm.generate([[1]], gen_length=2, steps=steps)


LONG = [
    "x" * 10_000_000,
    "dkv-decode:" + "é" * 1_000_000,
    "dkv-decode:" + ",".join(f"k{n}=1" for n in range(100_000)),
    "dkv-decode:" + ",".join(["refresh=1"] * 100_000),
    "dkv-decode:refresh=" + "☃" * 100_000,
    "preset:" + "y" * 100_000,
    "\ud800:a=b",
]


@pytest.mark.parametrize("spec", LONG, ids=range(len(LONG)))
def test_a_long_spec_gets_a_short_line(spec: str) -> None:
    for make in (make_cache, make_decoder):
        with pytest.raises(dkv.SpecError) as caught:
            make(spec)
        assert len(str(caught.value)) < 1200  # with the names that are known
        assert json.dumps(str(caught.value))


def test_a_class_that_cannot_be_made_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    from dkv.core.registry import make

    class Odd:
        name = "odd"

        def __init__(self, size: int = 1) -> None:
            raise KeyError("odd\nsize")

    with pytest.raises(dkv.SpecError, match="cannot be made") as caught:
        make("odd:size=3", {"odd": Odd}, "cache")
    assert "\n" not in str(caught.value)
