"""The wheel in an environment with the dependencies of the core alone: what users have, and developers have not.

Run by `make test-core`, which builds that environment and names its Python in DKV_CORE_PYTHON.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

PYTHON = os.environ.get("DKV_CORE_PYTHON")
pytestmark = pytest.mark.skipif(PYTHON is None, reason="needs the environment that `make test-core` builds")

PROMPT = "Work out: 2+3, 7*8, 56-9, 42/6"
ANSWER = "2+3=5\n7*8=56\n56-9=47\n42/6=7\n"
ABSENT = ("numpy", "fastapi", "uvicorn", "matplotlib", "torchao", "transformers", "ray", "lm_eval", "pytest")


def run(where: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The environment's Python, away from the source tree."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [str(Path(str(PYTHON)).absolute()), *arguments]
    return subprocess.run(command, cwd=where, env=environment, capture_output=True, text=True, timeout=300, check=False)


def test_the_environment_has_the_core_alone(tmp_path: Path) -> None:
    code = f"from importlib.util import find_spec; print([name for name in {ABSENT!r} if find_spec(name)])"
    code += "; import dkv; print(dkv.__file__)"
    done = run(tmp_path, "-c", code)
    assert done.stdout.startswith("[]\n")
    assert "site-packages" in done.stdout


@pytest.mark.parametrize("more", [[], ["--compile"], ["--tensor-parallel", "2"]], ids=" ".join)
def test_generate_answers_without_a_warning(tmp_path: Path, more: list[str]) -> None:
    done = run(tmp_path, "-m", "dkv", "generate", PROMPT, "--gen-length", "64", *more)
    assert (done.returncode, done.stdout) == (0, ANSWER), done.stderr
    lines = [line for line in done.stderr.splitlines() if not line.startswith("compile: ")]
    assert len(lines) == 1
    assert re.match(r"\d+ tokens, 64 steps, ", lines[0])


@pytest.mark.parametrize(
    "command",
    [
        "caches",
        "inspect tiny",
        "convert tiny converted --dtype float32",
        "compare hi --gen-length 8",
        "generate --input prompts.jsonl --output answers.jsonl --gen-length 8",
        "doctor --count 1 --gen-length 8 --cache dkv-decode",
        "eval --count 1 --tasks words --cache none",
        "bench --repeats 1 --gen-length 16 --prompt-length 16 --cache none",
    ],
)
def test_no_command_warns(tmp_path: Path, command: str) -> None:
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "hi"}\n', encoding="utf-8")
    done = run(tmp_path, "-m", "dkv", *command.split())
    assert done.returncode == 0, done.stderr
    assert "arning" not in done.stderr
    assert "umpy" not in done.stderr.lower()


@pytest.mark.parametrize(
    ("command", "error"),
    [
        ("serve", "serve: needs fastapi; pip install 'dkv[serve]'"),
        ("serve --ray", "serve: needs fastapi; pip install 'dkv[serve]'"),
        ("study delay --quick", "plots: needs matplotlib; pip install 'dkv[plots]'"),
        ("generate --input prompts.jsonl --output out.jsonl --ray", "ray: needs ray; pip install 'dkv[ray]'"),
    ],
)
def test_what_needs_an_extra_names_it_in_one_line(tmp_path: Path, command: str, error: str) -> None:
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "hi"}\n', encoding="utf-8")
    done = run(tmp_path, "-m", "dkv", *command.split())
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"error: {error}\n")


def test_python_loads_the_model_though_warnings_are_errors(tmp_path: Path) -> None:
    code = f"import dkv; print(dkv.load('tiny').generate({PROMPT!r}, gen_length=64)[0].text)"
    done = run(tmp_path, "-W", "error::UserWarning", "-c", code)
    assert (done.returncode, done.stdout, done.stderr) == (0, ANSWER, "")


def test_the_demonstration_runs_and_ends_with_the_next_step(tmp_path: Path) -> None:
    done = run(tmp_path, "-m", "dkv.cli.demo")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("(right)") == 3
    assert "arning" not in done.stderr
    assert re.search(r"^  \S*dkv generate ", done.stdout.partition("Next:\n")[2], flags=re.MULTILINE)
