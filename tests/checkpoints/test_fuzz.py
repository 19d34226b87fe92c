"""2,000 seeded mutations of a checkpoint's files: each loads correctly or fails with a typed error of one line; none
hangs, none allocates more than twice what the files hold, and none shows a traceback.

Allocations are counted where they are asked for: every new tensor by torch's dispatcher (also one whose pages are never
touched), Python's by tracemalloc. What neither sees, the Rust of safetensors, shows in the peak of resident memory.
"""

from __future__ import annotations

import gzip
import json
import pickle
import random
import resource
import signal
import subprocess
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, save
from torch.utils._python_dispatch import TorchDispatchMode

from dkv.errors import CheckpointError
from dkv.models import Transformer, architecture_of, load_model
from tests.support.checkpoints import CONFIG, DREAM_CONFIG, write_checkpoint
from tests.support.cli_fixtures import Cli, cli
from tests.support.warm import program

__all__ = ["cli"]

CPU = torch.device("cpu")
PYTHON = 1 << 16  # bytes of paths, strings and frames that any call takes, however small the files
NUMBERS = (-1, 0, 1, 2, 3, 7, 31, 33, 1 << 20, 1 << 30, (1 << 31) - 1, 1 << 31, 1 << 40, 1 << 63, 1 << 64, 10**400)
VALUES: tuple[Any, ...] = (
    *NUMBERS, None, True, False, "", "x", "F32", "I8", "F8_E4M3", [], [0], [1 << 62, 4], {}, {"a": 1}, 0.5, -0.0,
    float("nan"), float("inf"), 1e308, 1e-308,
)  # fmt: skip

Mutate = Callable[[bytes, random.Random], bytes]


def flip(data: bytes, draw: random.Random) -> bytes:
    """One to four bits, more often near the front, where the header is."""
    changed = bytearray(data)
    for _ in range(draw.randint(1, 4)):
        at = draw.randrange(len(data)) if draw.random() < 0.5 else draw.randrange(min(len(data), 2500))
        changed[at] ^= 1 << draw.randrange(8)
    return bytes(changed)


def cut(data: bytes, draw: random.Random) -> bytes:
    return data[: draw.randrange(len(data))]


def grow(data: bytes, draw: random.Random) -> bytes:
    return data + draw.randbytes(draw.randint(1, 64))


def splice(data: bytes, draw: random.Random) -> bytes:
    """Drop, repeat or overwrite a short run of bytes."""
    at, length = draw.randrange(len(data)), draw.randint(1, 16)
    middle = draw.choice((b"", data[at : at + length] * 2, draw.randbytes(length)))
    return data[:at] + middle + data[at + length :]


def shuffle_json(value: Any, draw: random.Random) -> Any:
    """One entry somewhere within, changed, dropped, renamed or repeated under another name."""
    if not isinstance(value, (dict, list)) or not value:
        return draw.choice(VALUES)
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    key, changed = draw.choice(keys), value.copy()
    action = draw.random()
    if action < 0.1:
        del changed[key]
    elif action < 0.2 and isinstance(changed, dict):
        changed[str(draw.choice(VALUES))] = changed.pop(key)
    elif action < 0.3 and isinstance(changed, dict):
        changed[draw.choice(keys)] = changed[key]
    elif action < 0.6 and isinstance(value[key], (dict, list)):
        changed[key] = shuffle_json(value[key], draw)
    else:
        changed[key] = draw.choice(VALUES)
    return changed


def config_value(data: bytes, draw: random.Random) -> bytes:
    return json.dumps(shuffle_json(json.loads(data), draw)).encode()


def header_value(data: bytes, draw: random.Random) -> bytes:
    """A header that is JSON but says something else, with its length put right, mostly."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    name = draw.choice(list(header))
    header[name] = shuffle_json(header[name], draw) if draw.random() < 0.8 else draw.choice(VALUES)
    text = json.dumps(header).encode()
    claimed = len(text) if draw.random() < 0.9 else draw.choice((0, len(text) - 1, len(data), 1 << 62))
    return claimed.to_bytes(8, "little") + text + data[8 + length :]


def header_length(data: bytes, draw: random.Random) -> bytes:
    return (
        draw.choice((0, 1, 7, len(data), len(data) - 8, 99 << 20, 1 << 40, (1 << 64) - 1)).to_bytes(8, "little")
        + data[8:]
    )


def spans(data: bytes, draw: random.Random) -> bytes:
    """Tensors that share bytes, leave out some, lie beyond the file or are named twice, under a right length."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    one, other = draw.sample([name for name in header if name != "__metadata__"], 2)
    action = draw.choice(("swap", "same", "shift", "twice", "drop", "beyond"))
    if action == "swap":
        header[one]["data_offsets"], header[other]["data_offsets"] = (
            header[other]["data_offsets"],
            header[one]["data_offsets"],
        )
    elif action == "same":
        header[one]["data_offsets"] = header[other]["data_offsets"]
    elif action in ("shift", "beyond"):
        by = draw.choice((-4, 4, 64)) if action == "shift" else len(data)
        header[one]["data_offsets"] = [offset + by for offset in header[one]["data_offsets"]]
    elif action == "drop":
        del header[one]
    text = json.dumps(header)
    if action == "twice":
        text = text[:-1] + f", {json.dumps(one)}: {json.dumps(header[other])}}}"
    return len(text).to_bytes(8, "little") + text.encode() + data[8 + length :]


def otherwise(data: bytes, draw: random.Random) -> bytes:
    """Another kind of file under the same name."""
    return draw.choice((
        b"", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", b"<!DOCTYPE html><html></html>",
        gzip.compress(data[:1000]), b"PK\x03\x04" + data[4:], b"GGUF" + data[4:], pickle.dumps(data[:1000]),
    ))  # fmt: skip


ANYWHERE: tuple[Mutate, ...] = (flip, cut, grow, splice, otherwise)
TARGETS: dict[str, tuple[Mutate, ...]] = {
    "config.json": (*ANYWHERE, config_value, config_value, config_value),
    "model.safetensors": (*ANYWHERE, flip, flip, flip, header_value, header_value, header_length, spans, spans),
}


def mutated(files: dict[str, bytes], seed: int) -> dict[str, bytes]:
    """The files with one of them, or now and then both, changed."""
    draw = random.Random(seed)
    targets = list(TARGETS) if draw.random() < 0.1 else [draw.choice(list(TARGETS))]
    return files | {name: draw.choice(TARGETS[name])(files[name], draw) for name in targets}


class Counted(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the bytes of every tensor that an operation makes anew."""

    total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        made = [returned.alias_info is None for returned in func._schema.returns]
        for new, value in zip(made, out if isinstance(out, (list, tuple)) else [out], strict=False):
            if new and isinstance(value, torch.Tensor):
                self.total += value.nbytes
        return out


@contextmanager
def in_time(seconds: int) -> Iterator[None]:
    """Ends what hangs."""

    def stop(*_: object) -> None:
        raise TimeoutError(f"not done in {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def watched(directory: Path) -> tuple[Transformer | CheckpointError, int]:
    """The model or the typed error, and how many bytes were asked for. Anything else is raised."""
    tracemalloc.start()
    try:
        with Counted() as tensors, in_time(20):  # type: ignore[no-untyped-call]
            result: Transformer | CheckpointError
            try:
                result = load_model(directory, CPU, torch.float32)
            except CheckpointError as error:
                result = error
        return result, tensors.total + max(tracemalloc.get_traced_memory()[1] - PYTHON, 0)
    finally:
        tracemalloc.stop()


def is_correct(model: Transformer, files: dict[str, bytes]) -> bool:
    """Whether a model holds what the mutated files say, read independently: every number of every tensor it took."""
    raw, stored = json.loads(files["config.json"]), load(files["model.safetensors"])
    taken = dict(architecture_of(raw).weight_map(model.config).tensors(model))
    same = all(torch.equal(taken[n].view(torch.int32), stored[n].float().view(torch.int32)) for n in taken)
    return same and len(model.blocks) == raw.get("n_layers", raw.get("num_hidden_layers"))


@pytest.fixture(scope="module", params=[CONFIG, DREAM_CONFIG], ids=["llada", "dream"])
def sound(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a sound checkpoint; what torch imports at the first use of a mode is not the mutations' cost."""
    directory = write_checkpoint(tmp_path_factory.mktemp("sound"), request.param)
    with Counted():  # type: ignore[no-untyped-call]
        load_model(directory, CPU, torch.float32)
    return {name: (directory / name).read_bytes() for name in TARGETS}


def write(directory: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (directory / name).write_bytes(content)
    return directory


def check(seeds: range, sound: dict[str, bytes], directory: Path) -> tuple[int, int]:
    """Load every mutation; how many loaded and how many were refused."""
    loaded = 0
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for seed in seeds:
        files = mutated(sound, seed)
        result, asked = watched(write(directory, files))
        assert asked <= 2 * sum(map(len, files.values())), f"seed {seed}: {asked} bytes"
        if isinstance(result, Transformer):
            assert is_correct(result, files), f"seed {seed}"
            loaded += 1
        else:
            assert "\n" not in str(result), f"seed {seed}: {result}"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - resident < 64 << 10  # in KiB
    return loaded, len(seeds) - loaded


@pytest.mark.parametrize("first", [0, pytest.param(500, marks=pytest.mark.slow)])
def test_mutations_load_correctly_or_are_refused(first: int, sound: dict[str, bytes], tmp_path: Path) -> None:
    loaded, refused = check(range(first, first + 500), sound, tmp_path)
    assert loaded > 50  # neither outcome is rare, or this would test little
    assert refused > 200


MOONS: dict[str, tuple[str, ...]] = {
    "width": ("d_model", "hidden_size"),
    "layers": ("n_layers", "num_hidden_layers"),
    "mlp": ("mlp_hidden_size", "intermediate_size"),
    "vocabulary": ("embedding_size", "vocab_size"),
    "heads": ("n_heads", "num_attention_heads"),
    "context": ("max_sequence_length", "max_position_embeddings"),
}


@pytest.mark.parametrize("moon", MOONS)
@pytest.mark.parametrize("value", [1 << 30, (1 << 31) - 1])
def test_a_config_that_asks_for_the_moon(moon: str, value: int, sound: dict[str, bytes], tmp_path: Path) -> None:
    """Shapes are held against the headers before anything is made; a long context costs nothing until it is used."""
    raw = json.loads(sound["config.json"])
    raw |= {key: value for key in MOONS[moon] if key in raw}
    result, asked = watched(write(tmp_path, sound | {"config.json": json.dumps(raw).encode()}))
    if moon == "context":
        assert isinstance(result, Transformer)
        assert result.config.context == value
        assert asked <= 2 * len(sound["model.safetensors"])
    else:
        assert isinstance(result, CheckpointError)
        assert asked == 0


def test_damage_at_the_end_is_found_before_anything_is_read(sound: dict[str, bytes], tmp_path: Path) -> None:
    tensors = load(sound["model.safetensors"])
    tensors.pop(max(name for name in tensors if "norm" in name and ".1." in name))
    result, asked = watched(write(tmp_path, sound | {"model.safetensors": save(tensors)}))
    assert "is missing from the checkpoint" in str(result)
    assert asked == 0


COMMANDS = (
    ("generate", "1 2 3", "--ids", "--gen-length", "4", "--dtype", "float32", "--model"),
    ("inspect",),
    ("inspect", "--json"),
)


def ends_well(code: int, out: str, errors: str) -> bool:
    """Done, or one line and exit code 2."""
    return code == 0 or (code == 2 and out == "" and errors.startswith("error: ") and errors.count("\n") == 1)


def test_the_command_line_shows_no_traceback(cli: Cli, sound: dict[str, bytes], tmp_path: Path) -> None:
    for seed in range(30):
        result = cli(*COMMANDS[seed % 3], str(write(tmp_path, mutated(sound, seed))))
        assert ends_well(result.exit_code, result.stdout, result.stderr), f"seed {seed}: {result.output}"


@pytest.mark.slow
def test_nor_does_a_process(sound: dict[str, bytes], tmp_path: Path) -> None:
    for seed in range(10):
        command = [*program(), *COMMANDS[seed % 3], str(write(tmp_path, mutated(sound, seed)))]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert ends_well(ended.returncode, ended.stdout, ended.stderr), f"seed {seed}: {ended.stderr}"
