"""What a process frees it finds again."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys, torch
from dkv.accel.malloc import keep_freed
kept = sys.argv[1] == "kept" and keep_freed()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        blocks = [torch.ones(10 << 20) for _ in range(3)]  # beyond what glibc keeps by itself
        del blocks
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(kept, faults())
"""


def told(how: str, **more: str) -> tuple[bool, int]:
    """Whether what is freed was kept, and the page faults of taking 600 MB in blocks of 40 once more."""
    environment = {name: value for name, value in os.environ.items() if "MALLOC" not in name} | more
    done = subprocess.run(
        [sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True, env=environment
    )
    kept, faults = done.stdout.split()
    return kept == "True", int(faults)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told")
def test_what_is_freed_is_found_again() -> None:
    assert told("as ever")[1] > 10_000
    kept, faults = told("kept")
    assert kept
    assert faults < 1_000


def test_a_user_who_has_chosen_is_not_overruled() -> None:
    assert not told("kept", MALLOC_TRIM_THRESHOLD_="131072")[0]


def test_other_systems_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    import dkv.accel.malloc

    for name in dkv.accel.malloc._OWN:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("ctypes.CDLL", lambda _: object())
    assert not dkv.accel.malloc.keep_freed()
    assert not dkv.accel.malloc.give_back()


GROWS = """
import asyncio, json, random, sys, time
import dkv
from dkv.engine import async_engine as service
from dkv.loading import bound_memory

service._IDLE = 0.5

def resident():
    with open("/proc/self/status") as status:
        return int(next(line for line in status if line.startswith("VmRSS")).split()[1]) / 1024

async def main(count):
    bound_memory("cpu", "float32")  # as `dkv serve` does
    lm, noise = dkv.load("tiny", device="cpu", dtype="float32"), random.Random(0)
    caches = ["none", "dkv-decode", "dkv-greedy", "dllm-cache", "dkv-fill", "fast-dual", "dpad"]
    async with dkv.Service(dkv.Engine(lm)) as serving:
        async def one(seed):
            prompt = [noise.randrange(1, 200) for _ in range(noise.randint(1, 150))]
            length = noise.choice([8, 16, 32, 64])
            cache = noise.choice(caches)
            await serving.generate(lm.request(prompt, gen_length=length, cache=cache, seed=seed, block_length=8))
        for seed in range(8):
            await one(seed)
        start = resident()
        for some in range(0, count, 32):
            await asyncio.gather(*map(one, range(some, some + 32)))
        busy = resident()
        for _ in range(100):
            await asyncio.sleep(0.2)
            if resident() < 1.3 * start:
                break
        print(json.dumps([start, busy, resident()]))

asyncio.run(main(int(sys.argv[1])))
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told")
def test_what_a_busy_hour_took_is_given_back_when_idle() -> None:
    environment = {n: v for n, v in os.environ.items() if "MALLOC" not in n and "CAPACITY" not in n}
    done = subprocess.run(
        [sys.executable, "-c", GROWS, "192"], capture_output=True, text=True, check=True, env=environment
    )
    start, busy, idle = json.loads(done.stdout)
    assert busy > idle
    assert idle < 1.3 * start


def test_a_user_may_say_how_many_kernels_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    from dkv.accel.malloc import bound_kernels

    for name in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
        monkeypatch.setenv(name, "7")
        bound_kernels()
        assert os.environ[name] == "7"
        monkeypatch.delenv(name)
        bound_kernels()
        assert int(os.environ[name]) < 1024
