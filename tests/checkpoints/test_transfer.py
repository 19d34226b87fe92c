"""Servers that do not answer, or not as a hub does: one line within the time that the environment says."""

from __future__ import annotations

import io
import os
import subprocess
import threading
import time
from pathlib import Path

import pytest

from dkv.checkpoints.hub import Hub
from dkv.checkpoints.transfer import StalledError, beginning, receive, within
from dkv.errors import HubError
from tests.support.checkpoints import write_checkpoint, write_tokenizer
from tests.support.hub import COMMIT, REPO, fake_hub
from tests.support.servers import MISBEHAVIOURS, misbehaving
from tests.support.warm import program

FIRST = "model-00001-of-00002.safetensors"
LONG = 60  # seconds that nothing here may take; what hangs takes for ever


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_ETAG_TIMEOUT", 0.4)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DOWNLOAD_TIMEOUT", 0.4)


# The hub's client of releases that use requests leaves a socket of an answer 500 to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("behaviour", MISBEHAVIOURS)
def test_an_endpoint_that_misbehaves_is_one_line(behaviour: str, tmp_path: Path) -> None:
    begun = time.monotonic()
    with misbehaving(MISBEHAVIOURS[behaviour]) as endpoint:
        for ask in (Hub(endpoint, tmp_path).directory, Hub(endpoint, tmp_path).peek):
            with pytest.raises(HubError, match=f"model='{REPO}': ") as caught:
                ask(REPO)
            assert "\n" not in str(caught.value)
    assert time.monotonic() - begun < LONG
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


@pytest.mark.parametrize(
    ("behaviour", "message"),
    [
        ("silent", "the hub does not answer in time .*HF_HUB_ETAG_TIMEOUT and HF_HUB_DOWNLOAD_TIMEOUT change that"),
        ("no object", "does not answer as a hub does"),
        ("dripping body", "the hub does not answer in time .no answer within 0.8 s; HF_HUB_ETAG_TIMEOUT and"),
        ("page", "does not answer as a hub does .a web page, perhaps.; check HF_ENDPOINT"),
        ("503", "the hub answered with status 503; try again later"),
        ("names above", "does not answer as a hub does"),
    ],
)
def test_what_it_does_is_said(behaviour: str, message: str, tmp_path: Path) -> None:
    with misbehaving(MISBEHAVIOURS[behaviour]) as endpoint, pytest.raises(HubError, match=message):
        Hub(endpoint, tmp_path).directory(REPO)


@pytest.mark.parametrize("kind", ["silent", "dripping"])
@pytest.mark.parametrize("name", ["config.json", FIRST])
def test_a_file_that_does_not_come_is_one_line(kind: str, name: str, tmp_path: Path) -> None:
    published = write_tokenizer(write_checkpoint(tmp_path / "published", shards=2))
    with fake_hub(published) as served:
        getattr(served, kind).add(name)
        hub = Hub(served.endpoint, tmp_path / "hub")
        for ask in (hub.directory, hub.peek):
            with pytest.raises(HubError, match=f"model='{REPO}': ") as caught:
                ask(REPO)
            assert "\n" not in str(caught.value)
        getattr(served, kind).clear()
        place = hub.directory(REPO)
        assert (place / name).read_bytes() == (published / name).read_bytes()


@pytest.mark.parametrize(
    "command",
    [
        ["generate", "hi", "--model", REPO],
        pytest.param(["inspect", REPO], marks=pytest.mark.slow),
        pytest.param(["convert", REPO, "out"], marks=pytest.mark.slow),
    ],
)
def test_commands_end_within_the_environment_s_time(command: list[str], tmp_path: Path) -> None:
    with misbehaving(MISBEHAVIOURS["silent"]) as endpoint:
        ended = subprocess.run(
            [*program(), *command], capture_output=True, text=True, timeout=240, check=False,
            cwd=tmp_path, env={
                **os.environ, "HF_HOME": str(tmp_path / "hf"), "HF_ENDPOINT": endpoint, "HF_HUB_ETAG_TIMEOUT": "1",
                "HF_HUB_DOWNLOAD_TIMEOUT": "1",
            },
        )  # fmt: skip
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith(f"error: model='{REPO}': ")
    assert ended.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_what_a_call_gives_is_given_and_what_it_raises_is_raised() -> None:
    assert within(LONG, lambda: 3) == 3
    with pytest.raises(KeyError, match="x"):
        within(LONG, lambda: {"y": 1}["x"])
    never = threading.Event()
    with pytest.raises(StalledError, match=r"no answer within 0\.1 s"):
        within(0.1, never.wait)
    never.set()


def test_the_beginning_of_an_endless_answer_is_enough() -> None:
    with misbehaving(MISBEHAVIOURS["endless body"]) as endpoint:
        found = beginning(endpoint, 1000, LONG)
    assert set(found) == {32}
    assert len(found) > 1000


def test_more_than_a_file_has_ends_the_transfer() -> None:
    with misbehaving(MISBEHAVIOURS["endless body"]) as endpoint, pytest.raises(EOFError, match="more arrived"):
        receive(endpoint, io.BytesIO(), 100_000, LONG, lambda count: None)


def test_a_slow_but_steady_answer_is_waited_for(tmp_path: Path) -> None:
    """Several windows pass, in each of which enough arrives."""
    published = write_checkpoint(tmp_path / "published")
    (published / "LICENSE").write_bytes(b"x" * 100)
    with fake_hub(published) as served:
        served.dripping.add("LICENSE")
        out = io.BytesIO()
        url = f"{served.endpoint}/{REPO}/resolve/{COMMIT}/LICENSE"
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("dkv.checkpoints.transfer._SLOWEST", 1)
            receive(url, out, 100, 0.4, lambda count: None)
    assert out.getvalue() == b"x" * 100


def test_an_endpoint_of_one_s_own_is_named_where_it_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for behaviour in ("reset", "503"):
        with misbehaving(MISBEHAVIOURS[behaviour]) as endpoint:
            monkeypatch.setenv("HF_ENDPOINT", endpoint)
            with pytest.raises(HubError, match=r"try again.*, check HF_ENDPOINT"):
                Hub(endpoint, tmp_path).directory(REPO)
            monkeypatch.delenv("HF_ENDPOINT")
            with pytest.raises(HubError, match=r"^(?!.*HF_ENDPOINT)"):
                Hub(endpoint, tmp_path).directory(REPO)
