"""Numbers as text."""

from __future__ import annotations

import pytest

from dkv.lab.common.charts import with_unit


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0 s"), (1.5, "1.50 s"), (0.0123, "12.3 ms"), (4.5e-6, "4.50 µs"), (123456, "123 ks"), (7e15, "7.00 Ps"),
        (999.4, "999 s"), (-0.002, "-2.00 ms"),
    ],
)  # fmt: skip
def test_units(value: float, text: str) -> None:
    assert with_unit(value, "s") == text
