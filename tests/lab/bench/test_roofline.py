"""The bound by hand, and that the measured rates are rates."""

from __future__ import annotations

import pytest
import torch

from dkv.lab.bench.flops import LayerWork, Work, head_flops, part_flops
from dkv.lab.bench.roofline import Rates, bound_seconds, measure_rates, weight_bytes
from dkv.lab.bench.shapes import SHAPES
from dkv.models import llada

MICRO = SHAPES["micro"]  # 64 wide, 2 layers, 4 heads, MLP 96, vocabulary 128
LAYER = 64 * (4 * 64 + 3 * 96)


def test_weights_are_those_of_the_layers_and_the_head() -> None:
    embedding, norms = MICRO.vocab * MICRO.width, 5 * MICRO.width
    assert weight_bytes(MICRO, 2) == 2 * (llada.weight_map(MICRO).parameters - embedding - norms)


def test_slow_arithmetic_makes_operations_count() -> None:
    work = Work((LayerWork(2, 10, 10, 200),), 3)
    operations = 2 * part_flops(MICRO, work.parts[0]) + head_flops(MICRO, 3)
    assert bound_seconds(MICRO, work, Rates(1.0, 1e30), 20, 4) == pytest.approx(operations)


def test_slow_memory_makes_bytes_count() -> None:
    work, rates = Work((LayerWork(2, 10, 10, 200),), 3), Rates(1e30, 1.0)
    keys = 2 * 20 * 64
    assert bound_seconds(MICRO, work, rates, 20, 4) == pytest.approx(4 * (2 * (LAYER + keys) + 64 * 128))
    unread = Work(work.parts, 0)
    assert bound_seconds(MICRO, unread, rates, 20, 4) == pytest.approx(4 * 2 * (LAYER + keys))


def test_the_larger_of_the_two_counts_layer_by_layer() -> None:
    few, many = LayerWork(1, 1, 1, 20), LayerWork(1, 1000, 1000, 20000)
    rates = Rates(part_flops(MICRO, many) / 2.0, 4 * (LAYER + 2 * 20 * 64) / 1.0)
    assert bound_seconds(MICRO, Work((few, many), 0), rates, 20, 4) == pytest.approx(1.0 + 2.0)


def test_a_layer_that_does_nothing_takes_nothing() -> None:
    assert bound_seconds(MICRO, Work((LayerWork(2, 0, 0, 0),), 0), Rates(1.0, 1.0), 20, 4) == 0


def test_measured_rates_are_those_of_a_machine() -> None:
    rates = measure_rates(torch.float32, torch.device("cpu"), 1 << 20, seconds=0.02)
    assert 1e8 < rates.flops < 1e15
    assert 1e8 < rates.bandwidth < 1e14
