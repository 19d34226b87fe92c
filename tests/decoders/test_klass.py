"""KLASS: what is likely and has not moved is fixed; what moved waits."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dkv.decoders import make_decoder
from dkv.decoders.klass import _TOP, Klass, _divergence
from dkv.errors import SpecError
from dkv.models import Transformer
from tests.decoders.changing import commits

LIKELY, UNLIKE = (5, 0.7), (5, 0.3)


def test_it_takes_reads_to_be_calm(model: Transformer) -> None:
    """The first read has nothing to compare with; then the most confident is fixed, one a step."""
    says = [[LIKELY, LIKELY, LIKELY, LIKELY, UNLIKE, UNLIKE]]
    assert commits(model, says, "klass:history=1") == [[1], [2, 3, 4], [5], [6]]
    assert commits(model, says, "klass:history=2") == [[1], [2], [3, 4], [5], [6]]
    assert commits(model, says, "klass:history=1,tau=0.71") == [[p] for p in range(1, 7)]


def test_what_moved_waits(model: Transformer) -> None:
    """And is counted from anew, whether the candidate changed or only its probability."""
    still = [LIKELY, LIKELY, LIKELY, LIKELY, UNLIKE]
    for moved in ((7, 0.7), (5, 0.95)):
        says = [still, [LIKELY, LIKELY, LIKELY, moved, UNLIKE]]
        assert commits(model, says, "klass:history=1,kl=0.1")[:3] == [[1], [2, 3], [4]]
    assert commits(model, says, "klass:history=1,kl=10")[:2] == [[1], [2, 3, 4]]


@given(seed=st.integers(0, 999), spread=st.floats(0.1, 8), drift=st.floats(0, 3), vocab=st.sampled_from([_TOP, 30]))
def test_the_divergence_is_that_of_the_distributions_but_for_the_rest(
    seed: int, spread: float, drift: float, vocab: int
) -> None:
    """Exact where all tokens are noted, else never more."""
    noise = torch.Generator().manual_seed(seed)
    old = torch.randn(4, vocab, generator=noise) * spread
    new = old + torch.randn(4, vocab, generator=noise) * drift
    before, now = old.log_softmax(1), new.log_softmax(1)
    top = before.topk(_TOP, dim=1)
    noted = torch.cat((top.indices.float(), top.values.exp(), torch.zeros(4, 1)), dim=1)
    assert noted.shape[1] == Klass.notes
    exact, got = (now.exp() * (now - before)).sum(1), _divergence(now, noted)
    assert (got <= exact + 1e-4).all()
    if vocab == _TOP:
        torch.testing.assert_close(got, exact, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("klass:tau=1.1", "tau=1.1 must lie in"),
        ("klass:kl=0", "kl=0.0 must be a positive number"),
        ("klass:history=0", "history=0 must be 1"),
    ],
)
def test_keys_out_of_range_are_refused(spec: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        make_decoder(spec)
