"""What a line of the input means, and what is refused with its number."""

from __future__ import annotations

import inspect
import json
from typing import Any

import pytest

import dkv
from dkv.core.registry import spec_of
from dkv.errors import PromptError, SettingError
from dkv.jobs.job_line import ARGUMENTS, Asking, JobLine, read_line, seed_of_line
from dkv.jobs.source import SourceLine
from dkv.params import Options


def line(record: object, number: int = 7) -> SourceLine:
    return SourceLine(number, record.encode() if isinstance(record, str) else json.dumps(record).encode())


def test_the_fields_are_the_arguments_of_a_request() -> None:
    others = {"self", "prompt", "params", "options", "trace", "frames", "attend"}
    named = set(inspect.signature(dkv.DiffusionLM.request).parameters) - others
    assert set(ARGUMENTS) == named | Options.__annotations__.keys()


@pytest.mark.parametrize(
    ("record", "prompt"),
    [
        ({"prompt": "Hi"}, "Hi"),
        ({"prompt": [1, 2]}, [1, 2]),
        ({"question": "Why?", "answer": "Because. #### 3"}, "Why?"),
        ({"messages": [{"role": "user", "content": "Hi"}]}, [{"role": "user", "content": "Hi"}]),
        ({"prompt": "Hi", "messages": None}, "Hi"),
    ],
)
def test_prompts_of_every_kind(record: dict[str, Any], prompt: object) -> None:
    read = read_line(line(record))
    assert isinstance(read, JobLine)
    assert read.prompt == prompt


@pytest.mark.parametrize(
    ("given", "changes"),
    [
        ({"max_tokens": 4, "temp": 2.0}, {"gen_length": 4, "temperature": 2.0}),
        ({"max_new_tokens": 16.0}, {"gen_length": 16}),
        ({"stop_sequences": ["x"], "random_seed": 3}, {"stop": ["x"], "seed": 3}),
        ({"until": ["x"]}, {"stop": ["x"]}),
        ({"repetition_penalty": 1.2}, {"repetition_penalty": 1.2}),
        ({"options": ["temperature", "pressure"], "parameters": {"age": 3}}, {}),
        ({"n": 1, "min_p": 0.0, "length_penalty": 1.0, "top_logprobs": None}, {}),
        ({"answer": "5", "metadata": {"level": 3}, "audio": "x.wav", "documents": ["y"]}, {}),
    ],
)
def test_arguments_by_the_names_of_other_programs(given: dict[str, Any], changes: dict[str, Any]) -> None:
    read = read_line(line({"prompt": "Hi", **given}))
    assert isinstance(read, JobLine)
    assert read.changes == changes
    assert all(type(value) is type(changes[name]) for name, value in read.changes.items())


def test_the_name_is_the_id_or_the_number() -> None:
    assert read_line(line({"prompt": "Hi", "id": "a"})).name == "a"
    assert read_line(line({"prompt": "Hi", "custom_id": "a"})).name == "a"
    assert read_line(line({"prompt": "Hi", "id": 0})).name == 0
    assert read_line(line({"prompt": "Hi"}, number=12)).name == 12


def test_a_byte_order_mark_is_no_part_of_the_first_line() -> None:
    read = read_line(SourceLine(1, b'\xef\xbb\xbf{"prompt": "Hi"}\r\n'))
    assert isinstance(read, JobLine)
    assert read.prompt == "Hi"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[1]", "not an object"),
        ("{}", "no prompt; give one of prompt, messages, question"),
        ('{"promt": "a"}', "no prompt; unknown field 'promt': did you mean 'prompt'?"),
        ('{"Questions": "a"}', "did you mean 'question'?"),
        ('{"prompt": "a", "max_token": 5}', "unknown field 'max_token'; spell it 'max_tokens'"),
        ('{"prompt": "a", "n": 3}', "n=3: one answer a line"),
        ('{"prompt": "a", "system": "b"}', 'system="b": give messages'),
        ('{"prompt": "a", "min_p": 0.5}', "min_p=0.5: this sampler is not supported"),
        ('{"prompt": "a", "block_size": 8}', "block_size=8: give block_length"),
        ('{"prompt": "a", "remasking": "random"}', 'remasking="random": give decoder'),
        ('{"prompt": "a", "guidance_scale": 3.5}', "guidance_scale=3.5: give cfg_scale"),
        ('{"prompt": "a", "response_format": {"type": "json_object"}}', "structured output is not supported; leave"),
        (
            '{"prompt": "a", "sampling_params": {"temperature": 2, "seed": 0}}',
            'sampling_params={"temperature": 2, "seed": 0}: arguments are fields of the line itself; put them there',
        ),
        ('{"prompt": "a", "extra_body": {"cache": "none"}}', "arguments are fields of the line itself"),
        ('{"prompt": "a", "settings": {"temperature": 2}}', "arguments are fields of the line itself"),
        ('{"prompt": "a", "ignore_eos": true}', "ignore_eos=true: give stop_at_eos=false"),
        ('{"prompt": "a", "max_tokens": 5, "gen_length": 5}', "max_tokens is another name of gen_length"),
        ('{"prompt": "a", "max_tokens": 5, "max_new_tokens": 5}', "give one of them"),
        ('{"prompt": "a", "question": "b"}', "both prompt and question"),
        ('{"prompt": 5}', "prompt='5' must be a text or a list of token ids"),
        ('{"question": ["a"]}', "must be a text"),
        ('{"messages": []}', "messages must be a list of"),
        ('{"messages": ["a"]}', "messages must be a list of"),
        ('{"prompt": "a", "id": true}', "id=True must be a text or a whole number"),
        ('{"prompt": "a", "id": 1.5}', "id=1.5"),
        ('{"prompt": "a", "gen_lenght": 5}', "unknown field 'gen_lenght'; spell it 'gen_length'"),
        ('{"prompt": "a", "top-p": 0.5}', "unknown field 'top-p'; spell it 'top_p'"),
        ('{"prompt": "a", "stop_at_eos": "no"}', "stop_at_eos='no' must be true or false"),
        ('{"prompt": "a", "chat": 0}', "chat=0 must be true or false"),
        ('{"prompt": "a", "seed": [1]}', "seed=[1] must be a whole number"),
    ],
)
def test_a_line_that_says_nothing_sound(text: str, message: str) -> None:
    with pytest.raises((SettingError, PromptError)) as error:
        read_line(line(text))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"prompt": "a", "gen_length": "12"}, "gen_length='12' must be a whole number"),
        ({"prompt": "a", "max_tokens": "12"}, "max_tokens='12' must be a whole number"),
        ({"prompt": "a", "max_tokens": 100, "block_length": 32}, "use max_tokens=128"),
        ({"prompt": "a", "temp": -1.0}, "temp=-1.0 must not be negative"),
        ({"prompt": "a", "cache": "nope"}, "nope"),
        ({"prompt": "a", "cache": 3}, "cache=3 is neither a spec nor"),
        ({"prompt": "a", "temperature": float("nan")}, "temperature=nan"),
        ({"prompt": ""}, "prompt is empty"),
        ({"prompt": "\ud800"}, "prompt"),
        ({"prompt": ["a", "b"]}, "is not a token id"),
        ({"messages": [{"role": "clown", "content": "x"}]}, "clown"),
    ],
)
def test_what_the_model_refuses_is_said_with_the_number(
    lm: dkv.DiffusionLM, record: dict[str, Any], message: str
) -> None:
    with pytest.raises(SettingError, match=r"^input: line 7: ") as error:
        Asking(lm, {}, 0).check(line(record))
    assert message in str(error.value)


def test_a_line_overrides_the_job_and_has_a_seed_of_its_own(lm: dkv.DiffusionLM) -> None:
    asking = Asking(lm, {"gen_length": 16, "cache": "none", "block_length": 4}, seed=3)
    (plain,) = asking.requests(read_line(line({"prompt": "a"}, 1)))
    (own,) = asking.requests(read_line(line({"prompt": "a", "gen_length": 8, "cache": "dkv-decode:refresh=3"}, 2)))
    (fixed,) = asking.requests(read_line(line({"prompt": "a", "seed": 11}, 3)))
    assert (plain.settings.gen_length, plain.settings.block_length) == (16, 4)
    assert (own.settings.gen_length, own.settings.block_length) == (8, 4)
    assert spec_of(own.settings.cache).startswith("dkv-decode:refresh=3")
    assert (plain.seed, own.seed, fixed.seed) == (seed_of_line(3, 1), seed_of_line(3, 2), 11)


def test_seeds_of_lines_differ_and_stay() -> None:
    seeds = {seed_of_line(seed, number) for seed in (0, 1) for number in range(1, 2001)}
    assert len(seeds) == 4000
    assert max(seeds) < 1 << 53
    # written down: another value would change every result that anyone wants to make again
    assert seed_of_line(0, 1) == 4_311_062_187_307_671
