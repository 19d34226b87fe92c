"""Credit: a candidate that stays is fixed earlier than its confidence alone would have it."""

from __future__ import annotations

import math

import pytest
import torch

from dkv.decoders import make_decoder
from dkv.decoders.credit import _raised
from dkv.errors import SpecError
from dkv.models import Transformer
from tests.support.changing_decoders import commits

SURE, LIKELY, UNLIKE = (5, 0.99), (5, 0.8), (5, 0.3)


def test_a_candidate_that_stays_earns_its_place(model: Transformer) -> None:
    """With alpha=0 it is the threshold rule."""
    says = [[SURE, (5, 0.7), SURE, UNLIKE, UNLIKE, UNLIKE]]
    assert commits(model, says, "threshold:tau=0.9") == [[1, 3], [2], [4], [5], [6]]
    assert commits(model, says, "credit:tau=0.9,alpha=0") == [[1, 3], [2], [4], [5], [6]]
    assert commits(model, says, "credit:tau=0.9,alpha=3")[0] == [1, 2, 3]


def test_credit_grows_with_reads(model: Transformer) -> None:
    """alpha=1, gamma=0, beta=1: after n reads the odds are n + 1 times those of the model. 0.8 are odds of 4, so 0.9
    (odds of 9) is passed at the second read; 0.3 are odds of 3/7, of which more than 20 reads are needed."""
    says = [[SURE, LIKELY, LIKELY, UNLIKE, UNLIKE]]
    assert commits(model, says, "credit:alpha=1,beta=1,gamma=0") == [[1], [2, 3], [4], [5]]
    assert commits(model, says, "threshold") == [[1], [2], [3], [4], [5]]


def test_another_candidate_begins_anew(model: Transformer) -> None:
    first, then = [SURE, LIKELY, (5, 0.79), UNLIKE], [SURE, LIKELY, (7, 0.79), UNLIKE]
    assert commits(model, [first, first], "credit:alpha=1,beta=1,gamma=0") == [[1], [2, 3], [4]]
    assert commits(model, [first, then], "credit:alpha=1,beta=1,gamma=0") == [[1], [2], [3], [4]]


def test_decay(model: Transformer) -> None:
    """With beta=0 only this read counts: odds doubled, for ever."""
    says = [[SURE, LIKELY, LIKELY, UNLIKE]]
    assert commits(model, says, "credit:alpha=1,beta=0,gamma=0") == [[1], [2], [3], [4]]


def test_a_bonus_is_added_to_the_logit() -> None:
    logits = torch.randn(20, 7)
    bonus = torch.rand(20) * 3
    raised = logits.clone()
    raised[:, 2] += bonus
    got = _raised(logits.log_softmax(1)[:, 2], bonus)
    torch.testing.assert_close(got, raised.log_softmax(1)[:, 2])
    edge = _raised(torch.tensor([0.0, -torch.inf, -1e-30]), torch.ones(3))
    assert edge[0] == 0
    assert edge[1] == -math.inf
    assert -1e-30 < edge[2] < 0


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("credit:tau=0", "tau=0.0 must lie in"),
        ("credit:alpha=-1", "alpha=-1.0 must be 0"),
        ("credit:beta=1.1", "beta=1.1 must lie in"),
        ("credit:gamma=-0.1", "gamma=-0.1 must lie in"),
    ],
)
def test_keys_out_of_range_are_refused(spec: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        make_decoder(spec)
