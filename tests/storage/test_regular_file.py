"""Files of unknown origin: what is not a plain file of the right kind is named, in every place of a checkpoint."""

from __future__ import annotations

import gzip
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import dkv
from dkv.errors import CheckpointError, DkvError
from dkv.models.saving import convert
from dkv.storage.regular_file import exists, expanded, foreign_format, open_file, read_bytes, read_text
from tests.support.checkpoints import write_checkpoint, write_tokenizer
from tests.support.cli_fixtures import Cli, cli, one_error

__all__ = ["cli"]

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 11356\n"


def hole(path: Path) -> None:
    path.touch()
    os.truncate(path, 1 << 40)


KINDS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "fifo": (os.mkfifo, "cannot be read: it is a FIFO, not a plain file"),
    "device": (lambda p: p.symlink_to("/dev/zero"), "it is a device, not a plain file"),
    "directory": (lambda p: p.mkdir(), "it is a directory, not a plain file"),
    "link to nothing": (
        lambda p: p.symlink_to("../../blobs/0a1b"),
        r"is a link to \.\./\.\./blobs/0a1b, which does not exist",
    ),
    "link to itself": (lambda p: p.symlink_to(p.name), "is a link to"),
    "pointer": (lambda p: p.write_text(POINTER), "is a Git LFS pointer, not the file itself; run `git lfs pull`"),
    "page": (
        lambda p: p.write_text(" <!doctype html>\n<title>Sign in</title>"),
        "is a web page, perhaps an error page",
    ),
    "gzip": (lambda p: p.write_bytes(gzip.compress(b"{}")), r"is compressed \(gzip\); decompress it"),
    "zip": (lambda p: p.write_bytes(b"PK\x03\x04rest"), "is a zip archive"),
    "empty": (lambda p: p.touch(), "is empty; fetch the file again"),
    "sparse": (hole, "has 1099511627776 bytes, more than the 268435456"),
}
PLACES = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "added_tokens.json",
          "special_tokens_map.json")  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", PLACES)
def test_every_file_is_named_for_what_it_is(place: str, kind: str, tmp_path: Path) -> None:
    make, message = KINDS[kind]
    directory = write_tokenizer(write_checkpoint(tmp_path / "model"))
    (directory / place).unlink(missing_ok=True)
    make(directory / place)
    with pytest.raises(CheckpointError, match=f"{place}: .*{message}") as caught:
        dkv.load(directory, device="cpu", dtype="float32")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_a_chat_template_is_named_for_what_it_is_and_not_replaced(kind: str, tmp_path: Path) -> None:
    make, message = KINDS[kind]
    directory = write_tokenizer(write_checkpoint(tmp_path / "model"))
    make(directory / "chat_template.jinja")
    with pytest.raises(DkvError, match=f"chat_template.jinja: .*{message}") as caught:
        dkv.load(directory, device="cpu", dtype="float32")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["fifo", "link to nothing", "pointer"])
@pytest.mark.parametrize("place", ["vocab.json", "merges.txt"])
def test_so_are_the_older_tokenizer_files(place: str, kind: str, tmp_path: Path) -> None:
    make, message = KINDS[kind]
    directory = write_checkpoint(tmp_path / "model")
    (directory / "vocab.json").write_text("{}")
    (directory / "merges.txt").write_text("")
    (directory / place).unlink()
    make(directory / place)
    with pytest.raises(CheckpointError, match=f"{place}: .*{message}"):
        dkv.load(directory, device="cpu", dtype="float32")


@pytest.mark.parametrize("kind", ["fifo", "link to nothing", "device"])
def test_the_command_line_says_it_in_one_line(kind: str, cli: Cli, tmp_path: Path) -> None:
    directory = write_tokenizer(write_checkpoint(tmp_path / "model"))
    (directory / "LICENSE").unlink(missing_ok=True)
    KINDS[kind][0](directory / "LICENSE")  # which is copied only
    with pytest.raises(CheckpointError, match="LICENSE"):
        convert(directory, tmp_path / "out", None, 10**9)
    (directory / "tokenizer.json").unlink()
    KINDS[kind][0](directory / "tokenizer.json")
    for command in (["inspect"], ["generate", "hi", "--model"]):
        assert "tokenizer.json" in one_error(cli(*command, str(directory)))


def test_a_file_that_becomes_a_fifo_after_the_check_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check of the name and the opening are two calls; what is opened is checked again, without blocking."""
    place, plain = tmp_path / "config.json", tmp_path / "plain"
    plain.write_text("{}")
    os.mkfifo(place)
    found = os.stat(plain)
    monkeypatch.setattr(os, "stat", lambda path: found)
    ended = threading.Event()

    def read() -> None:
        with pytest.raises(CheckpointError, match="it is a FIFO"):
            read_bytes(place)
        ended.set()

    threading.Thread(target=read, daemon=True).start()
    assert ended.wait(20)


def test_plain_files_are_read_as_they_are(tmp_path: Path) -> None:
    place = tmp_path / "x"
    place.write_bytes("ä\r\n".encode())
    link = tmp_path / "link"
    link.symlink_to("x")
    assert read_bytes(link) == place.read_bytes()
    assert read_text(link) == "ä\r\n"
    with open_file(link) as file:
        assert file.read(1) == b"\xc3"
    assert exists(place)
    with pytest.raises(CheckpointError, match="has 4 bytes, more than the 3"):
        read_bytes(place, 3)


def test_what_is_missing_or_forbidden_is_said(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"cannot be read \(No such file"):
        read_text(tmp_path / "none")
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_text(tmp_path / "a\0b")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    with pytest.raises(CheckpointError, match=r"cannot be read .*decode"):
        read_text(tmp_path / "bytes")


@pytest.mark.parametrize("head", [b"{", b"#version: 0.2", b"{% for m in messages %}", b"version 1", b"<|x|>", b"<s>"])
def test_a_checkpoint_s_own_texts_are_not_taken_for_others(head: bytes) -> None:
    assert foreign_format(head) is None


def test_the_home_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/h")
    assert expanded("~/x") == Path("/h/x")
    assert expanded("a/~/x") == Path("a/~/x")
    assert expanded("~no-such-user/x") == Path("~no-such-user/x")
    assert expanded("") is None
    assert expanded("a\0b") is None
