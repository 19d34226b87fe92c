"""What the README and the pages under docs/ show is what the code does: their examples run, their excerpts exist."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import dkv
from dkv.caches import known_caches
from dkv.specs import keys_of
from dkv.tokens.chat import ChatTemplate
from dkv.tokens.formats import FORMATS

ROOT = Path(__file__).parent.parent
PAGES = sorted((ROOT / "docs" / "caches").glob("*.md"))


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of one language in a page."""
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_excerpts_are_in_the_source(page: Path) -> None:
    package = ROOT / "src" / "dkv"
    files = [*(package / "caches").glob("*.py"), package / "verify.py"]
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
        [sys.executable, "-c", program], capture_output=True, text=True, env={"PYTHONPATH": str(tmp_path)}, check=False
    )
    assert done.returncode == 0, done.stderr
    # two blocks of four steps: one full forward of 11 rows, then three of the block's 4
    assert done.stdout.split()[:2] == ["46", "88"]
    assert "BlockOnly(refresh=4)" in done.stdout


def test_the_python_example_of_the_readme_uses_real_names() -> None:
    example = blocks(ROOT / "README.md", "python")[0]
    compile(example, "README.md", "exec")
    assert all(hasattr(dkv, name) for name in re.findall(r"dkv\.(\w+)", example))


def test_the_example_of_the_prompts_page_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = blocks(ROOT / "docs" / "prompts.md", "python")
    names: dict[str, Any] = {}
    exec(compile(example, "prompts.md", "exec"), names)
    assert capsys.readouterr().out.count("<|eot_id|>") == 4
    assert names["second"].prompt_ids == names["lm"].tokenizer.encode_chat(names["conversation"])
    assert names["third"].prompt_ids == [9, 8, 7]
    assert isinstance(names["text"], str)


def test_the_example_of_the_engine_page_runs() -> None:
    (example,) = blocks(ROOT / "docs" / "engine.md", "python")
    names: dict[str, Any] = {}
    exec(compile(example, "engine.md", "exec"), names)
    assert set(names["texts"]) == {names["first"], names["second"]}
    (alone,) = names["lm"].generate("Write a Python function that adds two numbers.", gen_length=64)
    assert names["texts"][names["first"]] == alone.text != ""
    assert names["engine"].status().requests_finished == 2


def test_the_example_of_the_lengths_page_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = blocks(ROOT / "docs" / "lengths.md", "python")
    names: dict[str, Any] = {}
    exec(compile(example, "lengths.md", "exec"), names)
    assert names["long"].stats.new_tokens >= 24
    assert len(names["short"].token_ids) == 96
    assert len(names["filled"].token_ids) == 5
    assert [len(hole) for hole in names["canvas"].holes] == [3, 1]
    assert str(names["canvas"].texts) in capsys.readouterr().out


def test_the_formats_of_the_prompts_page_are_those_of_the_templates() -> None:
    shown = blocks(ROOT / "docs" / "prompts.md", "text")
    message = [{"role": "user", "content": "Hi"}]
    for text, form in zip(shown, FORMATS, strict=True):
        assert text == ChatTemplate(form.template, {}).render(message)
