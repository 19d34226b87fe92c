"""Headers of safetensors files: whole, disjoint, within the file, or one line before anything is mapped."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError
from safetensors.torch import load, save

from dkv.checkpoints.safetensors_header import parse_header, read_headers
from dkv.checkpoints.weight_files import SINGLE
from dkv.errors import CheckpointError
from tests.support.checkpoints import write_checkpoint
from tests.support.cli_fixtures import Cli, cli, one_error

__all__ = ["cli"]

SOUND = {"a": torch.arange(4.0), "b": torch.ones(2, 2), "c": torch.ones(0)}


def with_header(header: object, data: bytes = b"\0" * 32) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def entry(begin: Any, end: Any, shape: Any = (4,), dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


DAMAGED: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "a header of 0 bytes in a file of 0"),
    "short": (b"\1\0\0", "a header of 1 bytes in a file of 3"),
    "zeros": (b"\0" * 4096, "a header of 0 bytes"),
    "ones": (b"\xff" * 64, "a header of 18446744073709551615 bytes in a file of 64"),
    "header longer than the file": ((200).to_bytes(8, "little") + b"{}", "a header of 200 bytes in a file of 10"),
    "no JSON": (with_header(b"{'a': 1}"), "not valid JSON"),
    "no text": (with_header(b"\xff\xfe"), "not valid JSON"),
    "deep": (with_header(b"[" * 100_000), "not valid JSON"),
    "a list": (with_header([]), "not valid JSON"),
    "overlap": (with_header({"a": entry(0, 16), "b": entry(8, 24)}), "'a' and 'b' overlap"),
    "the same place twice": (with_header({"a": entry(0, 16), "b": entry(0, 16)}, b"\0" * 16), "'a' and 'b' overlap"),
    "hole": (with_header({"a": entry(0, 16), "b": entry(20, 36)}, b"\0" * 36), "bytes 16 to 20 belong to no tensor"),
    "hole at the front": (with_header({"a": entry(16, 32)}), "bytes 0 to 16 belong to no tensor"),
    "too much data": (with_header({"a": entry(0, 16)}), "16 bytes after the last tensor belong to no tensor"),
    "truncated": (with_header({"a": entry(0, 16)}, b"\0" * 15), "need 16 bytes, it has 15: truncated"),
    "beyond the file": (with_header({"a": entry(0, 1 << 40, [1 << 38])}), "truncated"),
    "backwards": (with_header({"a": entry(16, 0)}), "does not fit its data_offsets"),
    "wrong size": (with_header({"a": entry(0, 32)}), "does not fit its data_offsets"),
    "huge shape": (with_header({"a": entry(0, 32, [1 << 62] * 64)}), "does not fit"),
    "many dimensions": (with_header({"a": entry(0, 4, [1] * 1000)}, b"\0" * 4), "does not fit"),
    "negative": (with_header({"a": entry(-16, 0)}), "no dtype, shape and data_offsets"),
    "a fraction": (with_header({"a": entry(0, 16.0)}), "no dtype, shape and data_offsets"),
    "three offsets": (with_header({"a": {**entry(0, 16), "data_offsets": [0, 8, 16]}}), "no dtype"),
    "no shape": (with_header({"a": {"dtype": "F32"}}), "no dtype"),
    "a number": (with_header({"a": 3}), "is no object"),
    "unknown dtype": (with_header({"a": entry(0, 32, dtype="F31")}), "the unknown dtype 'F31'"),
    "named twice": (
        with_header(b'{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]},'
                    b'"a":{"dtype":"F32","shape":[4],"data_offsets":[16,32]}}'),
        "names 'a' twice",
    ),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGED)
def test_damaged_headers_are_one_line(damage: str) -> None:
    data, message = DAMAGED[damage]
    with pytest.raises(CheckpointError, match=message) as caught:
        parse_header(Path("x.safetensors"), data, len(data))
    assert "is not a complete safetensors file" in str(caught.value)
    assert "\n" not in str(caught.value)


@settings(max_examples=300)
@given(st.data())
def test_what_is_taken_is_what_the_library_reads(data: st.DataObject) -> None:
    """A sound file with some bytes of its header changed: refused, or read as the format's own library reads it."""
    changed = bytearray(save(SOUND))
    end = 8 + int.from_bytes(changed[:8], "little")
    for _ in range(data.draw(st.integers(1, 3))):
        changed[data.draw(st.integers(0, end - 1))] = data.draw(st.integers(0, 127))
    try:
        stored = parse_header(Path("x"), bytes(changed), len(changed))
    except CheckpointError:
        return
    try:
        read = load(bytes(changed))
    except (SafetensorError, ValueError, KeyError):
        return  # stricter still, when the tensors are read
    assert {name: tensor.shape for name, tensor in stored.items()} == {n: tuple(t.shape) for n, t in read.items()}


def replace(directory: Path, make: Callable[[Path], Any], name: str = SINGLE) -> None:
    (directory / name).unlink()
    make(directory / name)


def sparse(path: Path) -> None:
    path.touch()
    os.truncate(path, 1 << 42)


def sparse_with_header(path: Path) -> None:
    """A header that is right about a tensor of four terabytes, which is one hole."""
    path.write_bytes(with_header({"a": entry(0, 1 << 42, [1 << 40])}, b""))
    os.truncate(path, path.stat().st_size + (1 << 42))


def bound_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(path))  # the names of sockets are short


NO_FILES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "fifo": (os.mkfifo, "it is a FIFO, not a plain file"),
    "socket": (bound_socket, "it is a socket"),
    "device": (lambda p: p.symlink_to("/dev/zero"), "it is a device"),
    "directory": (lambda p: p.mkdir(), "it is a directory"),
    "link to nothing": (lambda p: p.symlink_to("../../blobs/abc"), "is a link to ../../blobs/abc, which does not"),
    "link to itself": (lambda p: p.symlink_to(p.name), "is a link to"),
    "sparse": (sparse, "is not a complete safetensors file"),
    "pointer": (
        lambda p: p.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 123\n"),
        "is a Git LFS pointer, not the file itself; run `git lfs pull`",
    ),
    "page": (lambda p: p.write_text("\n<!DOCTYPE html><html>404</html>"), "is a web page"),
    "error message": (lambda p: p.write_text('{"error":"Entry not found"}'), "is text .*perhaps an error message"),
    "gzip": (lambda p: p.write_bytes(b"\x1f\x8b\x08" + b"x" * 50), r"is compressed \(gzip\)"),
    "torch's zip": (lambda p: torch.save({"a": torch.ones(2)}, p), "is a zip archive, as torch.save writes"),
    "pickle": (lambda p: p.write_bytes(b"\x80\x04\x95" + b"x" * 50), "is pickled; dkv never unpickles"),
    "gguf": (lambda p: p.write_bytes(b"GGUF\3\0\0\0" + b"x" * 50), "is a GGUF file, which dkv does not read yet"),
    "empty": (lambda p: p.touch(), "is not a complete safetensors file"),
}  # fmt: skip


@pytest.mark.parametrize("kind", NO_FILES)
def test_what_is_no_safetensors_file_is_named_at_once(
    kind: str, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make, message = NO_FILES[kind]
    directory = write_checkpoint(tmp_path / "model")
    replace(directory, make)
    with pytest.raises(CheckpointError, match=message):
        read_headers(directory)
    for command in (["inspect"], ["generate", "1", "--ids", "--model"]):
        assert SINGLE in one_error(cli(*command, str(directory)))
    assert SINGLE in one_error(cli("convert", str(directory), str(tmp_path / "out")))


def test_a_file_larger_than_the_memory_is_refused_before_it_is_mapped(tmp_path: Path, cli: Cli) -> None:
    directory = write_checkpoint(tmp_path / "model")
    replace(directory, sparse_with_header)
    assert read_headers(directory)["a"].size == 1 << 40  # looking costs nothing
    shown = cli("inspect", str(directory), "--json")
    assert shown.exit_code == 0
    one_error(cli("generate", "1", "--ids", "--model", str(directory)))
