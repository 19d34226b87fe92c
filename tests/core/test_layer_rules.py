"""Which layers use which rule."""

from __future__ import annotations

import pytest

from dkv.core.layer_rules import DENSE, LayerRule, Rules
from dkv.layers.v_verify import Verify

VERIFY, OTHER = Verify("cosine", adaptive=True), Verify("l2", adaptive=True)


@pytest.mark.parametrize(
    ("rules", "layers", "runs"),
    [
        (DENSE, 5, [(None, 0, 5)]),
        (Rules(VERIFY, VERIFY), 5, [(VERIFY, 0, 5)]),
        (Rules(None, VERIFY), 5, [(None, 0, 1), (VERIFY, 1, 5)]),
        (Rules(VERIFY, OTHER), 2, [(VERIFY, 0, 1), (OTHER, 1, 2)]),
        (Rules(None, VERIFY), 1, [(None, 0, 1)]),
    ],
)
def test_layers_under_one_rule_run_together(
    rules: Rules, layers: int, runs: list[tuple[LayerRule | None, int, int]]
) -> None:
    assert rules.runs(layers) == [(rule, slice(first, last)) for rule, first, last in runs]
    each = [rule for rule, span in rules.runs(layers) for _ in range(layers)[span]]
    assert each == [rules.of(layer) for layer in range(layers)]
    assert rules.narrowed(layers) == sum(rule is not None for rule in each)
