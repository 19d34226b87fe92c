"""Misspelt keywords of the public calls: a SettingError that names the call and the keyword that was meant."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest

import dkv
from dkv.core.values import checked_keywords, nearest
from dkv.params import InfillOptions, Options
from dkv.server import build

METHODS = ("generate", "stream", "request", "infill", "infill_canvas", "infill_request", "save")
CALLS: list[tuple[str, Callable[..., Any]]] = [
    *((name, getattr(dkv.DiffusionLM, name)) for name in METHODS),
    ("load", dkv.load),
    ("Engine", dkv.Engine.__init__),
    ("Service", dkv.Service.__init__),
    ("build", build),
]


def names_of(call: Callable[..., Any]) -> list[str]:
    named = [name for name in inspect.signature(call).parameters if name != "self"]
    if "options" not in named:
        return named
    kind = InfillOptions if call.__name__.startswith("infill") else Options
    return [*(name for name in named if name != "options"), *kind.__annotations__]


def test_the_smallest_input(bare_lm: dkv.DiffusionLM) -> None:
    with pytest.raises(dkv.SettingError, match=r"^gen_lenght=5 is no argument of generate; did you mean gen_length\?$"):
        bare_lm.generate([[1]], gen_lenght=5)  # type: ignore[call-arg]


@pytest.mark.parametrize(("name", "call"), CALLS)
def test_a_letter_less_or_more_or_swapped_is_understood(name: str, call: Callable[..., Any]) -> None:
    known = names_of(call)
    for right in known:
        for wrong in (right[:-1], right + "s", right.replace("_", "-"), right.upper(), right[:2] + right[3:]):
            if wrong in known or len(right) < 5 or wrong == "top_":
                continue
            with pytest.raises(dkv.SettingError, match=f"is no argument of {name}; did you mean {right}\\?") as caught:
                call(**{wrong: 1})
            assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "call", "wrong", "right"),
    [
        ("generate", dkv.DiffusionLM.generate, "max_new_tokens", "gen_length"),
        ("generate", dkv.DiffusionLM.generate, "max_tokens", "gen_length"),
        ("generate", dkv.DiffusionLM.generate, "prompt", "prompts"),
        ("generate", dkv.DiffusionLM.generate, "messages", "prompts"),
        ("stream", dkv.DiffusionLM.stream, "prompts", "prompt"),
        ("stream", dkv.DiffusionLM.stream, "messages", "prompt"),
        ("generate", dkv.DiffusionLM.generate, "guidance_scale", "cfg_scale"),
        ("load", dkv.load, "torch_dtype", "dtype"),
        ("load", dkv.load, "tp", "tensor_parallel"),
    ],
)
def test_other_programs_names_are_understood(name: str, call: Callable[..., Any], wrong: str, right: str) -> None:
    with pytest.raises(dkv.SettingError, match=rf"{wrong}=1 is no argument of {name}; did you mean {right}\?"):
        call(**{wrong: 1})


def test_what_is_near_nothing_lists_what_is_known(bare_lm: dkv.DiffusionLM) -> None:
    with pytest.raises(
        dkv.SettingError, match=r"^zzz=.* is no argument of Engine; it takes lm, memory, active, waiting, patience$"
    ):
        dkv.Engine(bare_lm, zzz="x\n" * 999)  # type: ignore[call-arg]


@pytest.mark.parametrize(("name", "call"), CALLS)
def test_the_signature_stays_what_tools_read(name: str, call: Callable[..., Any]) -> None:
    assert len(names_of(call)) > 1 or name == "Service"
    assert name in {"Engine", "Service"} or call.__doc__


def test_right_calls_pass_unchanged() -> None:
    @checked_keywords
    def add(a: int, b: int = 2) -> int:
        return a + b

    assert (add(1), add(1, b=3), add(a=2)) == (3, 4, 4)
    assert nearest("steps", ["a"]) is None
