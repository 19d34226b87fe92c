"""`dkv serve`: what it refuses in one line, where it listens, and how it ends."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.support.cli_fixtures import Cli, one_error
from tests.support.warm import program

SECRET = "zebra"


@contextmanager
def serving(*arguments: str, **environment: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server in a process of its own, once it listens: the process and its address."""
    command = [*program(), "serve", "--port", "0", *arguments]
    clean = {name: value for name, value in os.environ.items() if name != "DKV_API_KEY"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=clean | environment
    ) as process:
        assert process.stdout is not None
        try:
            lines = [process.stdout.readline(), process.stdout.readline()]
            found = re.search(r"http://[\w.:\[\]]+/v1", lines[-1])
            assert found is not None, "".join(lines) + process.stdout.read()
            assert lines[0].startswith("loading ")
            assert process.stdout.readline().startswith("unless a request says otherwise: cache=")
            yield process, found[0]
        finally:
            process.kill()


def body_of(prompt: str, tokens: int, stream: bool) -> dict[str, object]:
    """A request that takes a step a token, whatever the weights."""
    settings = {"max_tokens": tokens, "block_length": 1, "cache": "none", "temperature": 1.0, "seed": 1}
    return {"model": "checkpoint", "prompt": prompt, "stream": stream, **settings}


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit code, and what was written once it listened."""
    assert process.stdout is not None
    rest = process.stdout.read()
    return process.wait(timeout=30), rest


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_running_requests_finish(checkpoint: Path, number: signal.Signals) -> None:
    with serving("--model", str(checkpoint), "--name", "checkpoint") as (process, address):
        with httpx.stream("POST", f"{address}/completions", json=body_of(SECRET, 200, True), timeout=60) as answer:
            lines = answer.iter_lines()
            next(lines)
            process.send_signal(number)
            rest = [line for line in lines if line]
        assert ended(process) == (0, "stopped\n")
    assert rest[-1] == "data: [DONE]"
    assert json.loads(rest[-2].removeprefix("data: "))["choices"][0]["finish_reason"] in ("length", "stop")


def test_while_it_ends_it_says_so_and_a_second_signal_hurries_it(checkpoint: Path) -> None:
    with serving("--model", str(checkpoint), "--name", "checkpoint", "--grace", "60") as (process, address):
        endless = {**body_of(SECRET, 4000, True), "grow": False}  # a whole canvas, which does not end by itself before
        with httpx.stream("POST", f"{address}/completions", json=endless, timeout=60) as answer:
            lines = answer.iter_lines()
            next(lines)
            process.terminate()
            while (ready := httpx.get(f"{address.removesuffix('/v1')}/ready")).status_code == 200:
                pass
            refused = httpx.post(f"{address}/completions", json=endless)
            process.terminate()
            last = [line for line in lines if line][-1]
        assert ended(process) == (0, "stopped\n")
    for error in (ready.json(), refused.json(), json.loads(last.removeprefix("data: "))):
        assert error["error"]["code"] == "shutting_down"
    assert (ready.status_code, refused.status_code) == (503, 503)


def test_the_grace_is_bounded(checkpoint: Path) -> None:
    with serving("--model", str(checkpoint), "--name", "checkpoint", "--grace", "0") as (process, address):
        body = {**body_of(SECRET, 4000, True), "grow": False}  # a whole canvas, which does not end by itself before
        with httpx.stream("POST", f"{address}/completions", json=body, timeout=60) as answer:
            lines = answer.iter_lines()
            next(lines)
            process.terminate()
            last = [line for line in lines if line][-1]
        assert ended(process)[0] == 0
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "shutting_down"


def test_the_access_log_has_no_text(checkpoint: Path) -> None:
    arguments = ("--model", str(checkpoint), "--name", "checkpoint", "--access-log")
    with serving(*arguments, DKV_API_KEY="good,better") as (process, address):
        with httpx.Client(headers={"authorization": "Bearer better"}, timeout=60) as client:
            statuses = [
                client.post(f"{address}/completions", json=body).status_code
                for body in (
                    body_of(SECRET, 4, False),
                    body_of(SECRET, 4, True),
                    body_of(SECRET, 0, False),
                    {SECRET: SECRET},
                )
            ]
        statuses.append(httpx.get(f"{address}/models").status_code)
        process.terminate()
        code, log = ended(process)
    assert (statuses, code) == ([200, 200, 400, 400, 401], 0)
    assert log.count('"POST /v1/completions HTTP/1.1"') == 4
    assert SECRET not in log
    assert "better" not in log


def test_a_port_in_use_is_one_line_before_the_model_is_loaded(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"architectures": ["LLaDAModelLM"]}', encoding="utf-8")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        line = one_error(cli("serve", "--port", str(port), "--model", str(tmp_path)))
    assert line == f"error: port={port}: cannot listen on 127.0.0.1:{port} (Address already in use); choose another\n"


@pytest.mark.parametrize(
    ("arguments", "key", "says"),
    [
        (
            ["--host", "0.0.0.0"],
            None,
            "host='0.0.0.0': other machines could reach it; set DKV_API_KEY, or give --no-key",
        ),
        (["--host", "::"], None, "host='::': other machines could reach it"),
        (["--host", ""], None, "host='': other machines could reach it"),
        (["--no-key"], "k", "no_key: DKV_API_KEY is set; unset it, or leave out --no-key"),
        ([], "a,,b", "DKV_API_KEY: holds an empty key"),
        (["--host", "name.invalid"], None, "host='name.invalid' is not known here"),
        (["--port", "65536"], None, "port=65536 must be a whole number from 0 to 65535"),
        (["--port", "x"], None, "'x' is not a whole number"),
        (["--memory", "lots"], None, "memory='lots' is not a size"),
        (["--max-body", "0"], None, "max_body='0' is not a size"),
        (["--timeout", "0"], None, "timeout=0.0 must be a positive number"),
        (["--timeout", "nan"], None, "timeout=nan must be a positive number"),
        (["--max-per-key", "0"], None, "max_per_key=0 must be a positive number"),
        (["--grace", "-1"], None, "grace=-1.0 must be a number of seconds, 0 for none"),
        (["--port", "0", "--model", "/nowhere"], None, "/nowhere"),
        (["--cache", "dkv-decod"], None, "cache='dkv-decod': unknown name 'dkv-decod'; known: "),
        (["--decoder", "treshold"], None, "decoder='treshold': unknown name 'treshold'; known: "),
        (["--block-length", "0"], None, "block_length=0 must be a whole number of at least 1"),
        (["--block-length", "64", "--max-tokens", "32"], None, "block_length=64 exceeds max_tokens=32; use less"),
        (["--steps", "-1"], None, "steps=-1 must be a whole number of at least 1"),
        (["--temperature", "-1"], None, "temperature=-1.0 must not be negative"),
        (["--top-p", "2"], None, "top_p=2.0 must lie in (0, 1]"),
        (["--top-k", "x"], None, "'x' is not a whole number"),
        (["--cfg-scale", "-1"], None, "cfg_scale=-1.0 must not be negative"),
        (["--port", "0", "--active", "0"], None, "active=0 must be a whole number of at least 1"),
    ],
)
def test_what_it_refuses(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, arguments: list[str], key: str | None, says: str
) -> None:
    monkeypatch.delenv("DKV_API_KEY", raising=False)
    if key is not None:
        monkeypatch.setenv("DKV_API_KEY", key)
    assert says in one_error(cli("serve", *arguments))


def test_a_missing_extra_is_one_line() -> None:
    code = "import sys, dkv.cli; sys.modules['fastapi'] = None; sys.argv = ['dkv', 'serve']; sys.exit(dkv.cli.main())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: serve: needs fastapi; pip install 'dkv[serve]'\n"


def test_the_examples_of_the_page_answer_rightly(capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever the server's own defaults are: the examples set what their answers depend on."""
    page = (Path(__file__).parents[2] / "docs" / "serve.md").read_text(encoding="utf-8")
    program = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)[0]
    body = re.findall(r"```sh\n.*? -d '(.*?)'\n```", page, flags=re.DOTALL)[0]
    with serving() as (_, address):
        exec(compile(program.replace("http://127.0.0.1:8000/v1", address), "serve.md", "exec"), {})
        answer = httpx.post(f"{address}/chat/completions", json=json.loads(body), timeout=60).json()
    assert capsys.readouterr().out == "3*4=12 eggs\n12+5=17 eggs\n#### 17\n47 books"
    assert answer["choices"][0]["message"]["content"] == "2+3=5\n7*8=56\n56-9=47\n42/6=7"


def test_settings_of_requests_are_said_at_the_start_and_in_answers(checkpoint: Path) -> None:
    command = [
        *program(), "serve", "--port", "0", "--model", str(checkpoint), "--name", "checkpoint",
        "--cache", "dkv-decode:refresh=2", "--block-length", "8", "--temperature", "0.5",
    ]  # fmt: skip
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            lines = [process.stderr.readline() for _ in range(3)]
            found, line = re.search(r"http://[\w.:\[\]]+/v1", lines[1]), lines[2]
            assert found is not None
            body = {"model": "checkpoint", "prompt": "hi", "max_tokens": 8}
            told = httpx.post(f"{found[0]}/completions", json=body, timeout=60).json()["choices"][0]["dkv"]
        finally:
            process.kill()
    assert line == (
        "unless a request says otherwise: cache=dkv-decode:refresh=2 (operator), decoder=confidence (default), "
        "block_length=8 (operator), grow=True (default), temperature=0.5 (operator)\n"
    )
    assert told["settings"]["cache"].startswith("dkv-decode:refresh=2,")
    assert (told["settings"]["block_length"], told["sources"]["block_length"]) == (8, "operator")


@pytest.mark.slow
def test_two_ranks_serve_one_model(checkpoint: Path) -> None:
    """The first listens, the other follows: the answer is one process's, and SIGTERM ends both."""
    body = {**body_of("hi", 12, False), "cache": "dkv-decode", "block_length": 12}
    arguments = ("--model", str(checkpoint), "--name", "checkpoint", "--dtype", "float32")
    texts = []
    for ranks in ("1", "2"):
        with serving(*arguments, "--tensor-parallel", ranks) as (process, address):
            answer = httpx.post(f"{address}/completions", json=body, timeout=60)
            texts.append(answer.json()["choices"][0]["text"])
            process.send_signal(signal.SIGTERM)
            code, rest = ended(process)
            assert (code, rest.strip()) == (0, "stopped")
    assert texts[0] == texts[1]


def test_ranks_and_replicas_do_not_mix(cli: Cli) -> None:
    assert "tensor_parallel=2 does not go with --ray" in one_error(cli("serve", "--ray", "--tensor-parallel", "2"))


def test_faster_forwards_are_for_one_process(cli: Cli) -> None:
    assert "compile=True does not go with" in one_error(cli("serve", "--ray", "--compile"))
    assert "cuda_graphs=True does not go with" in one_error(cli("serve", "--tensor-parallel", "2", "--cuda-graphs"))
