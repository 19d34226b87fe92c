"""The time that this machine's arithmetic and memory allow for given row counts, and what the two can do, measured.

Each layer takes at least its operations over the rate of large matrix products, and at least the bytes that it must
read (weights, keys and values, each once) over the bandwidth; the larger counts. So does the head.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from dkv.core.model import ModelConfig
from dkv.lab.bench.flops import LayerWork, Work, head_flops, part_flops
from dkv.layers.quantized import packed_bytes

__all__ = ["Rates", "bound_seconds", "measure_rates", "synchronize", "weight_bytes"]

_SIZE, _SIZE_ELSEWHERE = 1024, 4096
"""Rows and columns of the matrices: larger ones were not faster on the processors tried; other devices need more."""
_SMALLEST, _LARGEST = 1 << 18, 1 << 28
"""Bytes to copy: what is less is timed badly, what is more is no different."""


@dataclass(frozen=True)
class Rates:
    """What a machine does in a second: operations of matrix products, and bytes read or written."""

    flops: float
    bandwidth: float


def measure_rates(dtype: torch.dtype, device: torch.device, working_set: int, seconds: float = 0.3) -> Rates:
    """The best of many short trials in about twice `seconds`: others may use the machine too.

    working_set: bytes of the weights. As many are copied, so that what fits into a cache is taken as fast as it is.
    """
    size = _SIZE if device.type == "cpu" else _SIZE_ELSEWHERE
    a = torch.ones(size, size, dtype=dtype, device=device)
    source = torch.ones(min(max(working_set, _SMALLEST), _LARGEST) // 2, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    product = _best(lambda: torch.nn.functional.linear(a, a), device, seconds)
    copy = _best(lambda: target.copy_(source), device, seconds)
    return Rates(2 * size**3 / product, 2 * len(source) / copy)


def _best(work: Callable[[], object], device: torch.device, seconds: float) -> float:
    """The shortest time that `work` took."""
    shortest, until = float("inf"), time.perf_counter() + seconds
    work()
    synchronize(device)
    while (began := time.perf_counter()) < until or shortest == float("inf"):
        work()
        synchronize(device)
        shortest = min(shortest, time.perf_counter() - began)
    return shortest


def synchronize(device: torch.device) -> None:
    """Wait for an accelerator; a CPU has finished when a call returns."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def weight_bytes(config: ModelConfig, itemsize: int, quantize: str | None = None) -> int:
    """Bytes of the layers, packed where `quantize` names how, and of the head."""
    return config.layers * _layer_bytes(config, itemsize, quantize) + config.vocab * config.width * itemsize


def _layer_bytes(config: ModelConfig, itemsize: int, quantize: str | None) -> int:
    c = config
    inner, keys = c.heads * c.head_dim, c.kv_heads * c.head_dim
    shapes = (
        (inner + keys, c.width),
        (keys, c.width),
        (c.width, inner),
        (2 * c.mlp_width, c.width),
        (c.width, c.mlp_width),
    )
    return sum(packed_bytes(quantize, shape, itemsize) for shape in shapes)


def bound_seconds(
    config: ModelConfig, work: Work, rates: Rates, slots: int, itemsize: int, quantize: str | None = None
) -> float:
    """The least seconds of a forward over `slots` slots (of all sequences), elements of `itemsize` bytes, the layers'
    weights as `quantize` packs them."""
    keys = 2 * slots * config.kv_heads * config.head_dim * itemsize

    def layer(part: LayerWork) -> float:
        if not part.rows and not part.values:
            return 0.0
        read = (_layer_bytes(config, itemsize, quantize) if part.rows else 0) + keys
        return max(part_flops(config, part) / rates.flops, read / rates.bandwidth)

    total = sum(part.layers * layer(part) for part in work.parts)
    if not work.reads:
        return total
    head = config.vocab * config.width * itemsize
    return total + max(head_flops(config, work.reads) / rates.flops, head / rates.bandwidth)
