"""Lines of OpenAI's batch files: read by the server's schema, answered in OpenAI's form, found again by a later run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import dkv
from dkv.errors import SettingError
from dkv.jobs.job import Job
from dkv.jobs.job_line import Asking, read_line, seed_of_line
from dkv.jobs.openai_lines import OpenAILine
from dkv.jobs.records import failure_of, number_of, tokens_of
from dkv.jobs.source import JobOptions, SourceLine
from tests.support.job_files import results, write_lines

CHAT = {"messages": [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": "Hi"}]}


def openai_line(body: dict[str, Any], url: str = "/v1/completions", name: str = "a", **more: Any) -> dict[str, Any]:
    return {"custom_id": name, "method": "POST", "url": url, "body": body, **more}


def read(record: dict[str, Any], number: int = 7) -> OpenAILine:
    found = read_line(SourceLine(number, json.dumps(record).encode()))
    assert isinstance(found, OpenAILine)
    return found


def test_a_body_means_what_it_means_to_the_server(lm: dkv.DiffusionLM) -> None:
    asking = Asking(lm, {"gen_length": 16, "cache": "none", "temperature": 0.5}, seed=3)
    body = {"model": lm.name, "max_tokens": 8.0, "n": 2, "top_k": -1, "repetition_penalty": 1.0, "temperature": 0}
    requests = asking.requests(read(openai_line({**body, "prompt": ["ab", "c"]})))
    assert lm.tokenizer is not None
    assert [one.prompt for one in requests] == [tuple(lm.tokenizer.encode(text)) for text in ("ab", "ab", "c", "c")]
    assert [one.seed for one in requests] == [seed_of_line(3, 7) + n for n in range(4)]
    settings = requests[0].settings
    assert (settings.gen_length, settings.temperature, settings.top_k) == (8, 0, None)
    assert settings == lm.request("ab", gen_length=8, cache="none", seed=requests[0].seed).settings


def test_a_chat_goes_through_the_template(lm: dkv.DiffusionLM) -> None:
    (request,) = Asking(lm, {"gen_length": 8}, 0).requests(
        read(openai_line({"model": lm.name, **CHAT}, "/v1/chat/completions"))
    )
    assert lm.tokenizer is not None
    expected = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    assert request.prompt == tuple(lm.tokenizer.encode_chat(expected))
    assert request.settings.gen_length == 8


def test_ignoring_the_end_of_the_text_fills_the_answer(lm: dkv.DiffusionLM) -> None:
    body = {"model": lm.name, "prompt": "a", "max_tokens": 8, "ignore_eos": True}
    (request,) = Asking(lm, {"stop_at_eos": True}, 0).requests(read(openai_line(body)))
    assert (request.settings.stop_at_eos, request.settings.min_tokens) == (False, 8)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"custom_id": "a", "params": {}}, "method, url, body: missing"),
        (openai_line({}, url="/v1/embeddings"), "url='/v1/embeddings' is not supported; known: /v1/chat/completions"),
        ({**openai_line({}), "method": "GET"}, "method='GET' must be 'POST'"),
        ({**openai_line({}), "custom_id": 3}, "custom_id=3 must be a text"),
        (openai_line({}, max_tokens=3), "unknown field 'max_tokens' beside custom_id; put settings into body"),
        (openai_line({"prompt": "a"}), "body: model: is required"),
        (openai_line({"model": "m", "prompt": "a", "temprature": 1}), "did you mean temperature?"),
        (openai_line({"model": "m", "prompt": "a", "tools": [{}]}), "tool calling is not supported"),
        (openai_line({"model": "m", "prompt": "a", "stream": True}), "stream=true does not go with a batch"),
        (openai_line({"model": "m", **CHAT}), "/v1/chat/completions has it"),
        ({**openai_line({}), "body": ["x"]}, "body: the body must be a JSON object"),
    ],
)
def test_what_is_wrong_with_a_line(record: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError) as error:
        read_line(SourceLine(1, json.dumps(record).encode()))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_another_model_is_refused(lm: dkv.DiffusionLM) -> None:
    with pytest.raises(SettingError, match=r"input: line 2: body: there is no model 'gpt-4' here"):
        Asking(lm, {}, 0).check(SourceLine(2, json.dumps(openai_line({"model": "gpt-4", "prompt": "a"})).encode()))


def test_answers_have_openais_form_and_a_later_run_finds_them(spoken: Path, tmp_path: Path) -> None:
    body = {"model": spoken.name, "max_tokens": 4, "cache": "none"}
    lines = [
        openai_line({**body, "prompt": ["Hi", "Ho"], "n": 3}, name="many"),
        {"prompt": "Hi", "max_tokens": 4},
        openai_line({**body, "prompt": "Hi", "steps": 5}, name="bad"),
        openai_line({**body, **CHAT}, "/v1/chat/completions", name="chat"),
        openai_line({**body, "prompt": "Hi", "top_p": 2}, name="unread"),
    ]
    source, output = write_lines(tmp_path / "in.jsonl", lines), tmp_path / "out.jsonl"
    wanted = JobOptions(
        source, output, {"gen_length": 8}, str(spoken), "cpu", "float32", seed=1, batch_size=2, skip_bad=True
    )
    with Job(wanted) as job:
        progress = job.run(lambda _: None)
    found = {number_of(record): record for record in results(output)}
    assert sorted(found) == [1, 2, 3, 4, 5]
    assert (progress.failed, progress.tokens) == (2, sum(map(tokens_of, found.values())))
    many, bad, chat = found[1], found[3], found[4]
    assert set(many) == {"id", "custom_id", "response", "error"}
    assert (many["custom_id"], many["error"]) == ("many", None)
    assert set(many["response"]) == {"status_code", "request_id", "body"}
    answer = many["response"]["body"]
    assert (answer["object"], [choice["index"] for choice in answer["choices"]]) == ("text_completion", [*range(6)])
    assert answer["usage"]["completion_tokens"] <= 24
    assert chat["response"]["body"]["choices"][0]["message"]["role"] == "assistant"
    assert bad["response"]["status_code"] == 400
    assert "steps=5" in str(failure_of(bad))
    assert (found[5]["custom_id"], found[5]["response"]["status_code"]) == ("unread", 400)
    assert "top_p=2" in str(failure_of(found[5]))
    whole = output.read_bytes()
    kept = [line for line in whole.splitlines(keepends=True) if b'"many"' not in line]
    output.write_bytes(b"".join(kept))
    with Job(wanted) as job:
        assert job.results.count == 4
        job.run(lambda _: None)
    again = {number_of(record): record for record in results(output)}
    assert [c["text"] for c in again[1]["response"]["body"]["choices"]] == [c["text"] for c in answer["choices"]]
