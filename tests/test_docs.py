"""What the README and the pages under docs/ show is what the code does: their examples run, their excerpts exist."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import dkv
from dkv.caches import known_caches
from dkv.cli.commands import app
from dkv.core.registry import keys_of
from dkv.tiny import TASKS
from dkv.tokenizer.chat import ChatTemplate
from dkv.tokenizer.chat_formats import FORMATS
from tests.support.pages import PAGES as EVERY
from tests.support.pages import paths_in, resolved

ROOT = Path(__file__).parent.parent
EVERY_PAGE = [page for page in EVERY if "results" not in page.parts]
PAGES = sorted((ROOT / "docs" / "caches").glob("*.md"))


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of one language in a page."""
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_excerpts_are_in_the_source(page: Path) -> None:
    package = ROOT / "src" / "dkv"
    files = [*(package / "caches").glob("*.py"), package / "layers" / "v_verify.py"]
    source = "\n".join(path.read_text(encoding="utf-8") for path in files)
    excerpts = blocks(page, "python")
    assert excerpts
    for excerpt in excerpts:
        assert excerpt in source


def test_every_cache_has_a_page_with_its_keys_and_defaults() -> None:
    assert {page.stem for page in PAGES} == set(known_caches())
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for name, kind in known_caches().items():
        page = (ROOT / "docs" / "caches" / f"{name}.md").read_text(encoding="utf-8")
        for key, default in keys_of(kind).items():
            assert f"| `{key}` | {default} |" in page
        spec = ",".join(f"{key}={default}" for key, default in keys_of(kind).items() if default is not None)
        assert f"[`{name}{':' * bool(spec)}{spec}`](docs/caches/{name}.md)" in readme


def test_the_third_party_cache_of_the_readme_works(tmp_path: Path, bare: Path) -> None:
    code = next(b for b in blocks(ROOT / "README.md", "python") if b.startswith("# block_only.py"))
    (tmp_path / "block_only.py").write_text(code, encoding="utf-8")
    entry = re.search(r"^block-only = \"(.*)\"$", blocks(ROOT / "README.md", "toml")[0], flags=re.MULTILINE)
    assert entry is not None
    info = tmp_path / "block_only-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: block-only\nVersion: 1.0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text(f"[dkv.caches]\nblock-only = {entry[1]}\n", encoding="utf-8")
    program = (
        "import sys, dkv\n"
        f"lm = dkv.load({str(bare)!r}, dtype='float32', audit=True)\n"
        "result = lm.generate([1, 2, 3], gen_length=8, block_length=4, cache='block-only:refresh=4')[0]\n"
        "print(result.stats.rows_computed, result.stats.rows_total, result.settings.cache)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT / 'src'}"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    # two blocks of four steps: one full forward of 11 rows, then three of the block's 4
    assert done.stdout.split()[:2] == ["46", "88"]
    assert "BlockOnly(refresh=4)" in done.stdout


def run_example(page: str, number: int = 0) -> dict[str, Any]:
    """Run a Python block of a page; the names that it leaves."""
    example = blocks(ROOT / page, "python")[number]
    names: dict[str, Any] = {}
    exec(compile(example, page, "exec"), names)
    return names


def test_the_python_example_of_the_readme_answers_rightly(capsys: pytest.CaptureFixture[str]) -> None:
    names = run_example("README.md")
    assert names["result"].text == "3*4=12 eggs\n12+5=17 eggs\n#### 17"
    assert names["frame"].generation.text == names["frame"].committed_text == "12+6=18 books\n#### 18"
    shown = capsys.readouterr().out
    for line in blocks(ROOT / "README.md", "text")[1].splitlines():
        assert f"\n{line}\n" in shown


def commands(page: str, *names: str) -> list[list[str]]:
    """The indented shell lines of a page that call a `dkv` command, without their comments."""
    text = (ROOT / page).read_text(encoding="utf-8")
    lines = re.findall(rf"^    dkv ((?:{'|'.join(names)}) \"(?!\.\.\.).*)$", text, flags=re.MULTILINE)
    return [shlex.split(line, comments=True) for line in lines]


@pytest.mark.parametrize("arguments", commands("README.md", "generate", "compare"), ids=" ".join)
def test_the_commands_of_the_readme_answer_rightly(arguments: list[str]) -> None:
    shown = CliRunner().invoke(app, arguments)
    assert shown.exit_code == 0, shown.output
    lines = ["12+5=17 eggs", "#### 17"] if "Mia" in arguments[1] else ["2+3=5", "7*8=56", "56-9=47", "42/6=7"]
    for line in lines:
        assert shown.stdout.count(line) == (arguments.count("--cache") if arguments[0] == "compare" else 1)


def test_the_readme_has_commands_to_run() -> None:
    assert [arguments[0] for arguments in commands("README.md", "generate", "compare")] == [
        "generate", "generate", "compare",
    ]  # fmt: skip


def test_the_example_of_the_prompts_page_runs(capsys: pytest.CaptureFixture[str]) -> None:
    names = run_example("docs/prompts.md")
    assert capsys.readouterr().out.count("<|eot_id|>") == 4
    assert names["second"].prompt_ids == names["lm"].tokenizer.encode_chat(names["conversation"])
    assert names["third"].prompt_ids == names["ids"]
    texts = [names[name].text for name in ("first", "second", "third")]
    assert texts[0] == "- 29 keys\n- 18 eggs"
    assert texts[1] == "- 12 buttons\n- 25 stones\n- 5 cups"
    assert texts[2] == "2+3=5\n7*8=56\n56-9=47\n42/6=7"
    assert names["text"] == "42"


def test_the_example_of_the_engine_page_runs() -> None:
    names = run_example("docs/engine.md")
    assert names["texts"] == {
        names["first"]: "2+3=5\n7*8=56\n56-9=47\n42/6=7",
        names["second"]: "- 12 buttons\n- 25 stones",
    }
    (alone,) = names["lm"].generate("Work out: 2+3, 7*8, 56-9, 42/6", gen_length=64)
    assert names["texts"][names["first"]] == alone.text
    assert names["engine"].status().requests_finished == 2


def test_the_example_of_the_lengths_page_runs(capsys: pytest.CaptureFixture[str]) -> None:
    names = run_example("docs/lengths.md")
    assert names["long"].stats.new_tokens >= 24
    assert len(names["short"].token_ids) == 96
    assert names["short"].text == "3*4=12 eggs\n12+5=17 eggs\n#### 17"
    assert (names["filled"].text, len(names["filled"].token_ids)) == ("34 boxes", 3)
    assert names["canvas"].texts == ["12", "17", "17"]
    assert str(names["canvas"].texts) in capsys.readouterr().out


def test_the_example_of_the_batch_page_answers_rightly(tmp_path: Path) -> None:
    (lines,) = blocks(ROOT / "docs" / "batch.md", "json")
    (tmp_path / "prompts.jsonl").write_text(lines, encoding="utf-8")
    text = (ROOT / "docs" / "batch.md").read_text(encoding="utf-8")
    command = re.search(r"^    dkv (generate --input prompts\.jsonl .*)$", text, flags=re.MULTILINE)
    assert command is not None
    arguments = [str(tmp_path / part) if part.endswith(".jsonl") else part for part in command[1].split()]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    written = (tmp_path / "answers.jsonl").read_text(encoding="utf-8").splitlines()
    assert {answer["id"]: answer["text"] for answer in map(json.loads, written)} == {
        "eggs": "3*4=12 eggs\n12+5=17 eggs\n#### 17",
        "sums": "2+3=5\n7*8=56\n56-9=47\n42/6=7",
        "order": "- 12 buttons\n- 25 stones",
    }


PROMPTS = ROOT / "docs" / "prompts-that-work.md"
WAYS: list[dict[str, Any]] = [
    {"gen_length": 64},
    {"gen_length": 64, "cache": "none"},
    {"gen_length": 128, "block_length": 32, "grow": True},
]


def shown_prompts() -> list[tuple[str | list[dict[str, str]], str]]:
    """Each prompt or conversation of the page, with its answer."""
    page = PROMPTS.read_text(encoding="utf-8")
    found = re.findall(r"```(prompt|conversation)\n(.*?)\n```\n\n```answer\n(.*?)\n```", page, flags=re.DOTALL)
    return [(talk(asked) if kind == "conversation" else asked, answer) for kind, asked, answer in found]


def talk(text: str) -> list[dict[str, str]]:
    """The messages of a conversation that is written as `role: text`."""
    turns = re.split(r"^(user|assistant): ", text, flags=re.MULTILINE)[1:]
    return [{"role": role, "content": said.rstrip("\n")} for role, said in zip(turns[::2], turns[1::2], strict=True)]


def test_the_page_of_prompts_has_some_for_each_task() -> None:
    headings = re.findall(r"^## (\w+):", PROMPTS.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert set(headings) == {*TASKS, "drill"}
    assert len(shown_prompts()) >= 2 * len(TASKS) - 2


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_every_prompt_of_the_page_is_answered_as_it_says(way: dict[str, Any]) -> None:
    asked = shown_prompts()
    answers = dkv.load("tiny").generate([prompt for prompt, _ in asked], **way)
    assert [answer.text for answer in answers] == [right for _, right in asked]


def test_the_formats_of_the_prompts_page_are_those_of_the_templates() -> None:
    shown = blocks(ROOT / "docs" / "prompts.md", "text")
    message = [{"role": "user", "content": "Hi"}]
    for text, form in zip(shown, FORMATS, strict=True):
        assert text == ChatTemplate(form.template, {}).render(message)


def test_the_page_of_the_api_has_every_public_name() -> None:
    shown = re.findall(r"^::: dkv\.(\w+)$", (ROOT / "docs" / "api.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert sorted([*shown, "caches", "decoders"]) == dkv.__all__


def test_the_index_leads_to_every_page() -> None:
    links = set(re.findall(r"\]\(([^)#]+)", (ROOT / "docs" / "index.md").read_text(encoding="utf-8")))
    pages = [*(ROOT / "docs").glob("*.md"), *PAGES]
    assert {str(page.relative_to(ROOT / "docs")) for page in pages} - {"index.md"} <= links


@pytest.mark.parametrize("page", EVERY_PAGE, ids=lambda page: page.stem)
def test_a_page_begins_with_what_it_is_for(page: Path) -> None:
    """Prose, before any code, table or list."""
    title, first = page.read_text(encoding="utf-8").split("\n\n")[:2]
    assert re.fullmatch(r"# \S.*", title)
    assert re.match(r"[A-Za-z`]", first)
    assert len(first.split()) >= 20


@pytest.mark.parametrize("page", EVERY_PAGE, ids=lambda page: page.stem)
def test_the_files_that_a_page_names_exist(page: Path) -> None:
    named = {path for path in paths_in(page.read_text(encoding="utf-8")) if "/" in path and "NAME" not in path}
    assert {path for path in named if not resolved(path)} == set()


def test_the_readme_shows_the_packages() -> None:
    (tree,) = (block for block in blocks(ROOT / "README.md", "text") if block.startswith("src/dkv/\n"))
    package = ROOT / "src" / "dkv"
    shown = set(re.findall(r"[\w]+\.py|^ +\w+/", tree, flags=re.MULTILINE))
    there = {f"  {path.parent.name}/" for path in package.glob("*/__init__.py")}
    there |= {path.name for path in package.glob("*.py") if not path.name.startswith("__")}
    assert shown == there
