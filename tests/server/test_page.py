"""docs/serve.md: its examples run, and its tables name what there is."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from typer.main import get_command

import dkv
from dkv.cli.commands import app as program
from dkv.engine import Engine, Service
from dkv.server import Limits, build, schema
from dkv.server.client_fields import DROPPED, NEUTRAL
from tests.support.fake_service import FakeService, app_of, ask
from tests.support.pages import ROOT, blocks
from tests.support.server_fixtures import Serve

PAGE = ROOT / "docs" / "serve.md"
TEXT = PAGE.read_text(encoding="utf-8")


def section(heading: str) -> str:
    """The page from a heading to the next."""
    return TEXT.split(f"\n## {heading}\n")[1].split("\n## ")[0]


def named(text: str) -> set[str]:
    """What stands between backticks in the first column of tables."""
    cells = [line.split("|")[1] for line in text.splitlines() if line.startswith("| ")]
    return {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)}


def test_the_examples_run(tiny: dkv.DiffusionLM, serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    address = serve(build(Service(Engine(tiny)), tiny))
    client, own = blocks(PAGE, "python")
    names: dict[str, Any] = {}
    exec(compile(client.replace("http://127.0.0.1:8000", address), "serve.md", "exec"), names)
    names["client"].close()
    whole = tiny.infill("6*7=42 books\n42+5=", "\n#### 47", gen_length=3).text
    assert capsys.readouterr().out == f"{names['answer'].choices[0].message.content}\n{whole}"
    (curl,) = blocks(PAGE, "sh")
    found = re.fullmatch(r"curl http://127.0.0.1:8000(\S+) -H 'content-type: application/json' -d '(.*)'\n", curl, re.S)
    assert found is not None
    assert httpx.post(address + found[1], json=json.loads(found[2]), timeout=60).status_code == 200
    exec(compile(own, "serve.md", "exec"), names)
    assert ask(names["app"], "GET", "/v1/models", headers={"authorization": "Bearer secret"}).status_code == 200


def test_the_routes(lm: dkv.DiffusionLM) -> None:
    paths = ask(app_of(FakeService(lm), lm), "GET", "/openapi.json").json()["paths"]
    routes = {f"{method.upper()} {path}" for path, methods in paths.items() for method in methods}
    assert named(section("Routes")) == routes | {"GET /openapi.json"}


def test_the_fields() -> None:
    fields = {*schema.ChatBody.model_fields, *schema.CompletionBody.model_fields}
    assert named(section("Fields")) == fields
    neutral, dropped = section("Fields").split("Accepted at neutral values: ")[1].split("\n\n")[:2]
    here = {*schema.ChatBody.neutral_here, *schema.CompletionBody.neutral_here}
    assert set(re.findall(r"`(\w+)`", neutral)) == NEUTRAL.keys() | here
    assert set(re.findall(r"`(\w+)`", dropped)) == DROPPED


def test_the_errors() -> None:
    folder = Path(str(dkv.__file__)).parent / "server"
    source = "\n".join(path.read_text(encoding="utf-8") for path in folder.glob("*.py"))
    codes = {*re.findall(r'code="(\w+)"', source), "model_not_found", "context_length_exceeded"}
    rows = [line.split("|") for line in section("Errors").splitlines() if re.match(r"\| \d", line)]
    assert {code for row in rows for code in re.findall(r"`(\w+)`", row[2])} == codes


def all_of(parameter: Any) -> list[str]:
    """An option and its opposite."""
    return [*parameter.opts, *parameter.secondary_opts]


def test_the_options() -> None:
    command: Any = get_command(program)
    options = {option for parameter in command.commands["serve"].params for option in all_of(parameter)} - {"--help"}
    assert set(re.findall(r"`(--[\w-]+)`", section("Limits and safety"))) == options
    limits = Limits()
    table = section("Limits and safety")
    assert f"| {limits.max_prompt}, {limits.max_tokens} |" in table
    assert f"| {limits.tokens(grows=True)}; {limits.tokens(grows=False)} on a canvas that does not grow |" in table
    for value in (limits.choices, f"{limits.timeout:.0f}"):
        assert f"| {value} |" in table


def test_the_metrics(lm: dkv.DiffusionLM) -> None:
    app = app_of(FakeService(lm, limit=5), lm)
    families = list(text_string_to_metric_families(ask(app, "GET", "/metrics").text))
    names = {family.name + "_total" * (family.type == "counter") for family in families}
    assert named(section("Metrics")) == names
