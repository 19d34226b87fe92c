"""LocalLeap: less is asked of positions near one that the model is sure of."""

from __future__ import annotations

import pytest

from dkv.decoders import make_decoder
from dkv.errors import SpecError
from dkv.models import Transformer
from tests.support.commits import commits


def test_less_is_asked_near_an_anchor(model: Transformer) -> None:
    shares = [0.95, 0.5, 0.8, 0.5, 0.5, 0.8]
    assert commits(model, shares, "local-leap:reach=2")[0] == [1, 3]
    assert commits(model, shares, "local-leap:reach=1")[0] == [1]
    assert commits(model, shares, "local-leap:reach=5")[0] == [1, 3, 6]
    assert commits(model, shares, "local-leap:reach=5,near=0.81")[0] == [1]


def test_what_is_likely_is_no_anchor(model: Transformer) -> None:
    """Neither alone, where one position a step is fixed, nor for its neighbours."""
    assert commits(model, [0.8, 0.79], "local-leap") == [[1], [2]]
    assert commits(model, [0.95, 0.8, 0.8], "local-leap:reach=1")[0] == [1, 2]


def test_it_is_the_threshold_where_nothing_is_near(model: Transformer) -> None:
    shares = [0.95, 0.8, 0.91, 0.3]
    assert commits(model, shares, "local-leap:reach=0") == commits(model, shares, "threshold")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("local-leap:tau=1.1", "tau=1.1 must obey 0 < near <= tau <= 1"),
        ("local-leap:near=0", "near=0.0 and"),
        ("local-leap:near=0.95", "near=0.95 and tau=0.9"),
        ("local-leap:reach=-1", "reach=-1 must be 0 or more"),
    ],
)
def test_keys_out_of_range_are_refused(spec: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        make_decoder(spec)
