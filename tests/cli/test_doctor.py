"""`dkv doctor`: its report and JSON, its prompts, and its errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dkv.lab.doctor import findings
from dkv.lab.doctor.findings import FindingThreshold
from tests.support.cli_fixtures import Cli, one_error

PAGE = (Path(__file__).parent.parent.parent / "docs" / "doctor.md").read_text(encoding="utf-8")
NAMES = ["settling", "quality", "overhead", "layers", "prompt"]


@pytest.fixture
def common(checkpoint: Path) -> list[str]:
    """Two prompts for random weights."""
    return ["doctor", "--model", str(checkpoint), "--count", "2", "--gen-length", "8", "--dtype", "float32"]


def test_json_carries_every_finding(cli: Cli, common: list[str]) -> None:
    done = cli(*common, "--json")
    told: dict[str, Any] = json.loads(done.stdout)
    assert [c["cache"] for c in told["caches"]] == ["dkv-decode", "dllm-cache"]
    for cache in told["caches"]:
        assert [f["name"] for f in cache["findings"]] == NAMES
        assert all(f["status"] in findings.STATUSES and f["measured"] and f["figures"] for f in cache["findings"])
    assert (told["prompts"], told["gen_length"]) == (2, 8)
    assert done.stderr == ""


def test_the_report_has_a_section_for_each(cli: Cli, common: list[str]) -> None:
    done = cli(*common, "--cache", "dkv-decode:refresh=64,delay=0")
    lines = done.stdout.splitlines()
    assert [line.split()[1] for line in lines if line.startswith("  ") and line[2] != " "] == NAMES
    assert "  TROUBLE settling" in lines
    assert "    try:      delay=1" in done.stdout
    assert max(map(len, lines)) <= 100
    assert "dkv-decode:refresh=64,delay=0 on " in done.stdout


def test_prompts_from_a_file(cli: Cli, common: list[str], tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "Hello"}\n{"prompt": [1, 2, 3]}\n{"prompt": "left out"}\n', encoding="utf-8")
    told = json.loads(cli(*common, "--prompts", str(path), "--cache", "dkv-pd", "--json").stdout)
    assert told["prompts"] == 2


def test_default_prompts_fit_no_chat(cli: Cli) -> None:
    options = ["--count", "3", "--gen-length", "4", "--dtype", "float32", "--no-chat"]  # the third is a conversation
    assert cli("doctor", *options, "--cache", "dkv-pd", "--json").exit_code == 0


def test_a_checkpoint_without_a_tokenizer_gets_drawn_ids(cli: Cli, bare: Path) -> None:
    options = ["--model", str(bare), "--count", "1", "--gen-length", "4", "--cache", "dkv-pd"]
    assert cli("doctor", *options, "--json").exit_code == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--cache", "none"], "cache='none' has no trouble"),
        (["--cache", "dkv-decod"], "unknown name 'dkv-decod'"),
        (["--count", "0"], "count=0 must be"),
        (["--count", "many"], "'many' is not a whole number"),
        (["--prompts", "/nowhere.txt"], "prompts='/nowhere.txt': No such file"),
        (["--gen-length", "0"], "gen_length=0"),
        (["--block-length", "3"], "gen_length=8 must be a multiple of block_length=3"),
        (["--gen-length", "9000"], "exceed the model's context"),
        (["--decoder", "best"], "unknown name 'best'"),
        (["--device", "moon"], "device='moon'"),
    ],
)
def test_errors_are_one_line(cli: Cli, common: list[str], options: list[str], message: str) -> None:
    assert message in one_error(cli(*common, *options))


def test_the_page_has_the_thresholds() -> None:
    kinds = {name: value for name, value in vars(findings).items() if isinstance(value, FindingThreshold)}
    assert len(kinds) == 6
    for kind in kinds.values():
        assert f"| {kind.watch:g} | {kind.trouble:g} | {kind.reason} |" in PAGE
    for name in NAMES:
        assert f"**{name}**" in PAGE
