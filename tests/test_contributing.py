"""What contributors are told holds: commands, templates, hooks, CI and the form of the changelog."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from tests.support.pages import ROOT, paths_in, resolved

PAGE = ROOT / "CONTRIBUTING.md"
GITHUB = ROOT / ".github"
TEMPLATES = sorted((GITHUB / "ISSUE_TEMPLATE").glob("*.md"))


def targets() -> set[str]:
    """What `make` can be asked for."""
    text = (ROOT / "Makefile").read_text(encoding="utf-8").replace("\\\n", " ")
    return set(" ".join(re.findall(r"^\.PHONY:(.*)$", text, flags=re.MULTILINE)).split())


def parsed(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", [PAGE, GITHUB / "pull_request_template.md", *TEMPLATES], ids=lambda page: page.stem)
def test_what_a_page_names_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert {path for path in paths_in(text) if "NAME" not in path and not resolved(path)} == set()
    assert set(re.findall(r"^    make ([\w-]+)|`make ([\w-]+)", text, flags=re.MULTILINE)) <= {
        pair for target in targets() for pair in ((target, ""), ("", target))
    }


def test_the_templates_are_those_of_bugs_models_and_caches() -> None:
    assert [path.stem for path in TEMPLATES] == ["bug_report", "new_cache", "new_model"]
    for path in TEMPLATES:
        head = yaml.safe_load(path.read_text(encoding="utf-8").split("---\n")[1])
        assert {"name", "about"} <= set(head)


def test_ci_runs_everything_on_the_oldest_and_the_newest_python() -> None:
    job = parsed(GITHUB / "workflows" / "ci.yml")["jobs"]["run"]
    assert job["strategy"]["matrix"]["python"] == ["3.11", "3.13"]
    assert job["steps"][-1]["run"] == ".ci/run"
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


def test_ci_calls_targets_that_exist() -> None:
    called = re.findall(r"^make ([\w-]+)$", (ROOT / ".ci" / "run").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert set(called) <= targets()
    assert {"check", "test", "docs", "test-slow"} <= set(called)


def test_hooks_are_those_of_make_check() -> None:
    (repo,) = parsed(ROOT / ".pre-commit-config.yaml")["repos"]
    assert [hook["id"] for hook in repo["hooks"]] == ["ruff", "ruff-format", "mypy"]
    assert all(hook["entry"].startswith(".venv/bin/") for hook in repo["hooks"])


def test_the_changelog_keeps_its_form() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    releases = re.findall(r"^## (.*)$", text, flags=re.MULTILINE)
    assert releases[0] == "[Unreleased]"
    assert all(re.fullmatch(r"\[\d+\.\d+\.\d+\] - (\d{4}-\d\d-\d\d|not released yet)", name) for name in releases[1:])
    for section in text.split("\n## ")[1:]:
        kinds = re.findall(r"^### (.*)$", section, flags=re.MULTILINE)
        known = ["Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"]
        assert kinds == [kind for kind in known if kind in kinds]
