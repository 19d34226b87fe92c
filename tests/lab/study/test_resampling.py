"""The bootstrap over prompts."""

from __future__ import annotations

import math

import pytest
import torch

from dkv.lab.study.resampling import bootstrap


def mean(samples: torch.Tensor) -> torch.Tensor:
    return samples.mean(1)


def test_values_that_agree_leave_no_doubt() -> None:
    assert bootstrap(torch.full((5,), 0.5), mean) == pytest.approx((0.5, 0.5, 0.5))


def test_one_prompt_says_nothing_of_others() -> None:
    assert bootstrap(torch.tensor([0.5]), mean) == (0.5, -math.inf, math.inf)


def test_the_interval_is_about_two_standard_errors_and_always_the_same() -> None:
    values = torch.randn(200, generator=torch.Generator().manual_seed(1))
    value, low, high = bootstrap(values, mean)
    error = float(values.std()) / 200**0.5
    assert low == pytest.approx(value - 1.96 * error, abs=0.4 * error)
    assert high == pytest.approx(value + 1.96 * error, abs=0.4 * error)
    assert bootstrap(values, mean) == (value, low, high)
