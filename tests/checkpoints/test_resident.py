"""Loading takes little more memory than the weights themselves: read tensor by tensor, straight to their dtype."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dkv.checkpoints.safetensors_writer import Planned, write_shards
from dkv.models import llada
from tests.support.checkpoints import config_of

LIMIT = 1.3
SHAPE = config_of(
    d_model=1024, n_heads=16, n_kv_heads=16, n_layers=8, mlp_hidden_size=3072, vocab_size=32000, embedding_size=32000,
    max_sequence_length=131072, mask_token_id=31999, eos_token_id=31998, pad_token_id=31998,
)  # fmt: skip

AS_LARGE = {"MALLOC_MMAP_THRESHOLD_": "1000000"}
"""glibc gives back what is freed of pieces over 32 MB, as large models have; here of smaller ones too."""

# Anonymous memory of a process that loads, sampled by a thread: what it had before, at most, and in the end.
PROGRAM = """
import sys, threading, time
import torch, dkv

def anonymous():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("RssAnon"))

def watch():
    while not done.is_set():
        peak[0] = max(peak[0], anonymous())
        time.sleep(0.0005)

dkv.load("tiny", dtype=sys.argv[2])  # whatever torch sets up at first use is no cost of this checkpoint
done, peak, before = threading.Event(), [0], anonymous()
thread = threading.Thread(target=watch)
thread.start()
lm = dkv.load(sys.argv[1], device="cpu", dtype=sys.argv[2], quantize=sys.argv[3] if len(sys.argv) > 3 else None)
done.set()
thread.join()
print(before, max(peak[0], anonymous()), anonymous())
"""


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """A sharded bfloat16 checkpoint and how many numbers it holds; its context would make a large rotary table."""
    directory = tmp_path_factory.mktemp("large")
    (directory / "config.json").write_text(json.dumps(SHAPE))
    config = llada.configure(SHAPE)
    shapes = dict(llada.weight_map(config).shapes())
    noise = torch.randn(max(torch.Size(shape).numel() for shape in shapes.values())).bfloat16()

    def planned(shape: tuple[int, ...]) -> Planned:
        return Planned(shape, torch.bfloat16, lambda: noise[: torch.Size(shape).numel()].view(shape))

    write_shards(directory, {name: planned(shape) for name, shape in shapes.items()}, 100_000_000)
    return directory, llada.weight_map(config).parameters


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's count of anonymous memory")
@pytest.mark.parametrize(("dtype", "size"), [("bfloat16", 2), ("float32", 4)])
def test_the_peak_stays_near_the_weights(dtype: str, size: int, large: tuple[Path, int]) -> None:
    directory, numbers = large
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(directory), dtype], capture_output=True, text=True, check=True, timeout=120
    )
    before, peak, end = map(int, ended.stdout.split())
    assert numbers * size > 250_000_000
    assert end - before > 0.95 * numbers * size  # the weights are the process's own, not a mapped file's
    assert peak - before < LIMIT * numbers * size
    print(f"{dtype}: weights {numbers * size / 1e6:.0f} MB, peak {(peak - before) / 1e6:.0f} MB")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's count of anonymous memory")
@pytest.mark.parametrize("quantize", ["int8", "int4"])
def test_packed_weights_are_never_plain_all_at_once(quantize: str, large: tuple[Path, int]) -> None:
    directory, numbers = large
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(directory), "bfloat16", quantize],
        capture_output=True, text=True, check=True, timeout=120, env={**os.environ, **AS_LARGE},
    )  # fmt: skip
    before, peak, end = map(int, ended.stdout.split())
    packed = llada.weight_map(llada.configure(SHAPE)).nbytes(2, quantize)
    largest = 2 * 2 * SHAPE["mlp_hidden_size"] * SHAPE["d_model"]
    print(f"{quantize}: {packed / 1e6:.0f} MB of {numbers * 2 / 1e6:.0f} MB, peak {(peak - before) / 1e6:.0f} MB")
    assert end - before > 0.95 * packed
    assert peak - before < 1.1 * packed + 3 * largest
