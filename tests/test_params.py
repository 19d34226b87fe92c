"""The list of options, and every argument that cannot be honoured: a SettingError of one line with the argument, its
value and the fix."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields, replace
from functools import cache
from importlib.resources import files
from typing import Any

import pytest
from typer.testing import CliRunner

import dkv
from dkv.cli.commands import app
from dkv.errors import PromptError, SettingError, SpecError
from dkv.jobs.job_line import ARGUMENTS
from dkv.params import DEFAULTS, OPTIONS, SERVED, InfillOptions, Options, ResolvedParams, SamplingParams
from dkv.server.playground.page_options import numbers
from dkv.server.schema import ChatBody, CompletionBody

NUMBERS = {each["name"] for each in numbers()}
NOT_FOR_HOLES = {"gen_length", "stop", "stop_at_eos", "grow"}

BAD: list[tuple[dict[str, Any], str]] = [
    ({"gen_length": 0}, "gen_length=0 must be a whole number of at least 1"),
    ({"gen_length": -4}, "gen_length=-4 must"),
    ({"gen_length": 4.0}, "gen_length=4.0 must be a whole number"),
    ({"gen_length": True}, "gen_length=True must"),
    ({"gen_length": None}, "gen_length=None must"),
    ({"block_length": 0}, "block_length=0 must"),
    ({"block_length": -1}, "block_length=-1 must"),
    ({"steps": 0}, "steps=0 must"),
    ({"steps": -2}, "steps=-2 must"),
    (
        {"gen_length": 10, "block_length": 4},
        "gen_length=10 must be a multiple of block_length=4; use gen_length=12, or block_length=5",
    ),
    (
        {"gen_length": 4, "block_length": 8},
        "gen_length=4 must be a multiple of block_length=8; use gen_length=8, or block_length=4",
    ),
    (
        {"gen_length": 1 << 30, "block_length": (1 << 29) + 1, "steps": 1 << 30},
        "use gen_length=.*, or block_length=536870912",
    ),
    ({"gen_length": 128, "block_length": 50, "steps": 128}, "use gen_length=150, or block_length=64"),
    (
        {"gen_length": 127, "block_length": 50, "steps": 127},
        "must be a multiple of block_length=50; use gen_length=150",
    ),
    (
        {"gen_length": 8, "block_length": 4, "steps": 3},
        "steps=3 must be a multiple of the number of blocks, 2.*steps=4",
    ),
    ({"temperature": -0.1}, r"temperature=-0.1 must not be negative; 0: the most likely token"),
    ({"temperature": float("nan")}, "temperature=nan must"),
    ({"temperature": float("inf")}, "temperature=inf must"),
    ({"temperature": 1e7}, "temperature=10000000.0 must"),
    ({"temperature": "hot"}, "temperature='hot' must"),
    ({"temperature": True}, "temperature=True must"),
    ({"top_p": 0}, r"top_p=0 must lie in \(0, 1\]"),
    ({"top_p": 0.0}, r"top_p=0.0 must lie in"),
    ({"top_p": 1.1}, "top_p=1.1 must"),
    ({"top_p": float("nan")}, "top_p=nan must"),
    ({"top_k": 0}, "top_k=0 must be a whole number of at least 1"),
    ({"top_k": 1 << 31}, "top_k=2147483648 must"),
    ({"gen_length": 1 << 31}, "gen_length=2147483648 must"),
    ({"top_k": 2.5}, "top_k=2.5 must"),
    ({"cfg_scale": -1.0}, "cfg_scale=-1.0 must not be negative; 0: no guidance"),
    ({"cfg_scale": float("nan")}, "cfg_scale=nan must be a number"),
    ({"eos_penalty": -1}, "eos_penalty=-1 must not be negative; 0: no penalty"),
    ({"cfg_scale": float("inf")}, "cfg_scale=inf must"),
    ({"seed": -1}, r"seed=-1 must be a whole number in \[0, 2\*\*62\)"),
    ({"seed": 1 << 62}, "seed=.* must be a whole number"),
    ({"seed": 1.5}, "seed=1.5 must"),
    ({"seed": "7"}, "seed='7' must"),
    ({"seed": [1, -1]}, "seed=-1 must"),
    ({"seed": [1, 2]}, "seed: 2 seeds for 1 prompts; give one, or one for each"),
    ({"seed": []}, "seed: 0 seeds for 1 prompts"),
    ({"stop": ""}, "stop=.* none empty"),
    ({"stop": 5}, "stop=5 must be a text or several"),
    ({"stop": ["a", 3]}, "stop=.* none empty"),
    ({"cache_dtype": "float31"}, "cache_dtype='float31' is unknown; known: .*float32"),
    ({"cache_dtype": "auto"}, "cache_dtype='auto' is unknown; known: float32"),
    ({"cache": 3}, r"cache=3 is neither a spec nor a CachePolicy; give it a method plan\(step\)"),
    ({"decoder": 3}, "decoder=3 is neither a spec nor a Decoder"),
    ({"batch_size": 0}, "batch_size=0 must be a whole number of at least 1"),
    ({"batch_size": 1.0}, "batch_size=1.0 must"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=[str(arguments) for arguments, _ in BAD])
def test_bad_arguments(arguments: dict[str, Any], message: str, bare_lm: dkv.DiffusionLM) -> None:
    with pytest.raises(SettingError, match=message) as caught:
        bare_lm.generate([[1, 2]], **{"gen_length": 8, **arguments})
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, ValueError)


STREAM = [(a, m) for a, m in BAD if "batch_size" not in a and not isinstance(a.get("seed"), list)]


@pytest.mark.parametrize(("arguments", "message"), STREAM, ids=[str(arguments) for arguments, _ in STREAM])
def test_a_stream_refuses_them_when_it_is_asked_for(
    arguments: dict[str, Any], message: str, bare_lm: dkv.DiffusionLM
) -> None:
    with pytest.raises(SettingError, match=message):
        bare_lm.stream([1, 2], **{"gen_length": 8, **arguments})


@pytest.mark.parametrize(
    "arguments",
    [{"cache": "dkv-cache"}, {"cache": "dkv-decode:rate=3"}, {"cache": "dkv-decode:refresh=0"}, {"decoder": "best"}],
)
def test_bad_specs(arguments: dict[str, Any], bare_lm: dkv.DiffusionLM) -> None:
    with pytest.raises(SpecError, match=r"cache=|decoder="):
        bare_lm.generate([[1, 2]], gen_length=8, **arguments)


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ([], "prompt is empty"),
        ([[]], "prompt is empty"),
        ([[1], []], "prompt is empty"),
        ([1, VALUE := 272], f"prompt: {VALUE} is not a token id below 272"),
        ([[1, -1]], "prompt: -1 is not a token id"),
        ([[1, 2.0]], "prompt: 2.0 is not a token id"),
        ([[1, "a"]], "prompt: 'a' is not a token id"),
        ([[True]], "prompt: True is not a token id"),
        ([3.5], "prompt: 3.5 is neither a text nor a list of token ids"),
        (["text"], "prompt: this checkpoint has no tokenizer; give a list of token ids"),
        ("text", "this checkpoint has no tokenizer"),
        ([[1] * 89], "prompt of 89 tokens and gen_length=8 exceed the model's context of 96; shorten one of them"),
    ],
)
def test_bad_prompts(prompts: Any, message: str, bare_lm: dkv.DiffusionLM) -> None:
    with pytest.raises(PromptError, match=message) as caught:
        bare_lm.generate(prompts, gen_length=8)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", " ", "\n\t "])
@pytest.mark.parametrize("chat", [None, True, False])
def test_empty_texts(text: str, chat: bool | None, lm: dkv.DiffusionLM) -> None:
    for prompts in (text, [text], ["fine", text]):
        with pytest.raises(PromptError, match="prompt is empty"):
            lm.generate(prompts, gen_length=8, chat=chat)
    with pytest.raises(PromptError, match="prompt is empty"):
        lm.stream(text, gen_length=8, chat=chat)


@pytest.mark.parametrize("prompts", [None, 5, b"bytes", {"a": 1}])
def test_things_that_are_no_prompts(prompts: Any, bare_lm: dkv.DiffusionLM) -> None:
    with pytest.raises(PromptError, match="prompt"):
        bare_lm.generate(prompts, gen_length=8)
    with pytest.raises(PromptError, match="prompt"):
        bare_lm.stream(prompts, gen_length=8)


def test_the_longest_prompt_that_fits(bare_lm: dkv.DiffusionLM) -> None:
    (result,) = bare_lm.generate([[1] * 88], gen_length=8, steps=2)
    assert len(result.token_ids) == 8


@pytest.mark.parametrize(
    "arguments",
    [
        {"cache": "dkv-decode:refresh=1000"},
        {"cache": "dkv-greedy:refresh=1000,window=1000"},
        {"steps": 20},
        {"steps": 1},
        {"steps": 3},
        {"gen_length": 1},
        {"top_p": 1},
        {"top_p": 1.0, "top_k": 10**9, "temperature": 1},
        {"seed": (1 << 62) - 1, "temperature": 0.5},
        {"cache_dtype": "bfloat16"},
    ],
)
def test_extremes_that_are_allowed(arguments: dict[str, Any], bare_lm: dkv.DiffusionLM) -> None:
    (result,) = bare_lm.generate([[1, 2]], **{"gen_length": 8, "stop_at_eos": False, **arguments})
    assert len(result.token_ids) == arguments.get("gen_length", 8)
    assert bare_lm.model.config.mask_id not in result.token_ids


@pytest.mark.parametrize("device", ["tpu", "cuda:99", "", "meta:x", 3])
def test_unknown_devices(device: Any, bare: Any) -> None:
    with pytest.raises(SettingError, match=r"device=.* is not available here; use 'auto' or 'cpu'"):
        dkv.load(bare, device=device)


@pytest.mark.parametrize("dtype", ["float33", "", "int8"])
def test_unknown_dtypes(dtype: str, bare: Any) -> None:
    with pytest.raises(SettingError, match=f"dtype='{dtype}' is unknown; known: auto, .*bfloat16"):
        dkv.load(bare, dtype=dtype)


def test_the_options_are_the_fields_and_the_keywords() -> None:
    names = [each.name for each in fields(SamplingParams)]
    assert list(OPTIONS) == list(DEFAULTS) == names
    assert set(Options.__annotations__) == set(names)
    assert set(InfillOptions.__annotations__) == set(names) - NOT_FOR_HOLES
    assert set(SERVED) < set(names)
    assert {each.name for each in fields(ResolvedParams)} == set(names)


def test_the_options_have_the_same_types_as_the_fields() -> None:
    """But for a canvas that is given whole, no option is None that has another default."""
    values = Options.__annotations__ | InfillOptions.__annotations__
    for each in fields(SamplingParams):
        assert each.type == values[each.name].__forward_arg__


def test_every_option_says_what_it_does() -> None:
    for name, option in OPTIONS.items():
        assert option.help.endswith("."), name
        assert (DEFAULTS[name] is None) <= bool(option.unset or option.kind == "texts"), name


def test_defaults_are_honoured_and_the_constructor_checks_at_once() -> None:
    assert SamplingParams() == SamplingParams(**{name: value for name, value in DEFAULTS.items() if value is not None})
    with pytest.raises(SettingError, match="gen_length=0"):
        SamplingParams(gen_length=0)
    with pytest.raises(SettingError, match="grow=True needs block_length"):
        SamplingParams(grow=True)


def test_errors_carry_argument_value_and_fix() -> None:
    with pytest.raises(SettingError) as caught:
        SamplingParams(gen_length=10, block_length=4)
    error = caught.value
    assert (error.argument, error.value, error.fix) == ("gen_length", 10, "use gen_length=12, or block_length=5")
    assert str(error).endswith(f"; {error.fix}")


def test_params_are_as_good_as_keywords_and_keywords_win(bare_lm: dkv.DiffusionLM) -> None:
    params = dkv.SamplingParams(gen_length=8, block_length=4, temperature=0.8, seed=3, cache="none")
    said = {"gen_length": 8, "block_length": 4, "temperature": 0.8, "seed": 3, "cache": "none"}
    one, other = bare_lm.generate([1, 2], params), bare_lm.generate([1, 2], **said)  # type: ignore[arg-type]
    assert one[0].token_ids == other[0].token_ids
    assert one[0].settings == other[0].settings
    (third,) = bare_lm.generate([1, 2], params, seed=4)
    assert third.seed == 4
    assert third.settings == replace(one[0].settings, seed=4)
    assert [*bare_lm.stream([1, 2], params)][-1].generation.token_ids == one[0].token_ids  # type: ignore[union-attr]
    assert bare_lm.request([1, 2], params).settings == one[0].settings


def test_what_a_generation_carries_makes_it_again(bare_lm: dkv.DiffusionLM) -> None:
    (made,) = bare_lm.generate([1, 2], gen_length=8, temperature=0.8)
    (again,) = bare_lm.generate([1, 2], made.settings)
    assert again.token_ids == made.token_ids


@pytest.mark.parametrize("params", [64, "fast", {"gen_length": 8}])
def test_params_of_another_kind_are_refused(params: Any, bare_lm: dkv.DiffusionLM) -> None:
    with pytest.raises(SettingError, match=r"params=.* must be dkv.SamplingParams; give "):
        bare_lm.generate([1, 2], params)


@pytest.mark.slow
def test_mypy_sees_misspelt_and_mistyped_options(tmp_path: Any) -> None:
    wrong = tmp_path / "wrong.py"
    wrong.write_text(
        'import dkv\nlm = dkv.load("tiny")\nlm.generate("a", gen_lenght=8)\nlm.stream("a", steps="many")\n'
        'lm.generate("a", gen_length=8, cache="none")\n',
        "utf-8",
    )
    found = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", str(wrong)], capture_output=True, text=True, check=False
    )
    lines = [line.split(":")[1] for line in found.stdout.splitlines() if ": error:" in line]
    assert lines == ["3", "4"], found.stdout


@pytest.mark.parametrize("name", OPTIONS)
def test_an_option_is_offered_everywhere(name: str) -> None:
    """In Python, on the command line, by the server, in batch files and on the playground's page."""
    assert name in Options.__annotations__
    assert f"--{name.replace('_', '-')}" in _help("generate")
    assert name in ARGUMENTS
    assert (name in ChatBody.model_fields) >= (OPTIONS[name].served != "other")
    assert (name in CompletionBody.model_fields) >= (OPTIONS[name].served != "other")
    assert (f"--{name.replace('_', '-')}" in _help("serve")) >= (name in SERVED)
    page = files("dkv.server.playground").joinpath("page.html").read_text("utf-8")
    offered = f'id="{name}"' in page or name in NUMBERS
    assert offered >= (OPTIONS[name].kind in ("whole", "number"))


@cache
def _help(command: str) -> str:
    return CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200"}).output
