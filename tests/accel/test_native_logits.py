"""The most likely tokens in C are those of torch, row by row, and where nothing builds it torch's way is used."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import dkv
from dkv.accel.compile_report import CompileReport
from dkv.accel.native_logits import BuildError, NativeLogitOps, build, native_logit_ops, one_runtime
from dkv.core.sampling import PLAIN_LOGIT_OPS, LogitOps
from dkv.models import Transformer


@pytest.fixture(scope="module")
def made(built: LogitOps) -> LogitOps:
    """What C computes, on machines with a C compiler."""
    if not isinstance(built, NativeLogitOps):
        pytest.skip("no C compiler here")
    return built


MAPS = """\
7f10-7f20 r-xp 0000 fe:00 11  /lib/torch/lib/libgomp.so.1
7f20-7f30 r--p 0000 fe:00 11  /lib/torch/lib/libgomp.so.1
7f30-7f40 r-xp 0000 fe:00 12  /lib/libcompression.so.5
7f40-7f50 r-xp 0000 00:00 0
"""


@pytest.mark.parametrize(
    ("maps", "one"), [(MAPS, True), (MAPS + "7f60-7f70 r-xp 0000 fe:00 13  /lib/libiomp5.so\n", False), ("", False)]
)
def test_two_runtimes_are_noticed(monkeypatch: pytest.MonkeyPatch, maps: str, one: bool) -> None:
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: maps)
    assert one_runtime() == one


def test_a_system_that_does_not_tell_has_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*_: object, **__: object) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", absent)
    assert not one_runtime()


@given(
    rows=st.integers(0, 5),
    vocab=st.integers(2, 300),
    mask=st.integers(0, 299),
    kind=st.integers(0, 3),
    seed=st.integers(0, 99),
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_best_tokens_are_torchs(
    made: LogitOps, dtype: torch.dtype, rows: int, vocab: int, mask: int, kind: int, seed: int
) -> None:
    """Ties, a mask token above all, barred tokens, and one token that is all but sure."""
    draw, mask = torch.Generator().manual_seed(seed), mask % vocab
    logits = 4 * torch.randn(rows, vocab, generator=draw)
    if kind == 0:
        logits = logits.round()
    elif kind == 1:
        logits[:, mask] = 9.0
    elif kind == 2:
        logits[:, torch.arange(vocab) % 3 == 1] = -torch.inf
        logits[:, (mask + 1) % vocab] = 1.0
    else:
        logits[:, seed % vocab] += 40.0
    logits = logits.to(dtype)
    told, expected = (ops.argmax_with_logprob(logits, mask) for ops in (made, PLAIN_LOGIT_OPS))
    assert told[0].equal(expected[0])
    torch.testing.assert_close(told[1], expected[1], rtol=2e-6, atol=1e-30)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_many_logits_are_summed_as_exactly(made: LogitOps, dtype: torch.dtype) -> None:
    logits = (3 * torch.randn(7, 126_464, generator=torch.Generator().manual_seed(0))).to(dtype)
    token, confidence = made.argmax_with_logprob(logits, 126_336)
    exact = logits.double().log_softmax(1).gather(1, token[:, None]).squeeze(1)
    torch.testing.assert_close(confidence.double(), exact, rtol=1e-6, atol=0)


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_row_is_alike_in_any_company(made: LogitOps, dtype: torch.dtype) -> None:
    """To the last bit, also where several threads share the rows."""
    logits = (3 * torch.randn(300, 500, generator=torch.Generator().manual_seed(0))).to(dtype)
    all_of = made.argmax_with_logprob(logits, 7)
    for first, last in ((0, 1), (7, 8), (5, 17), (100, 299)):
        some = made.argmax_with_logprob(logits[first:last], 7)
        assert all(own.equal(every[first:last]) for own, every in zip(some, all_of, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_no_number_stays_none(made: LogitOps, dtype: torch.dtype) -> None:
    logits = torch.zeros(4, 20, dtype=dtype)
    logits[1, 3], logits[2, 7], logits[3] = torch.nan, torch.inf, -torch.inf
    for ops in (made, PLAIN_LOGIT_OPS):
        assert ops.argmax_with_logprob(logits, 5)[1].isfinite().tolist() == [True, False, False, False]


def test_what_it_does_not_know_torch_does(made: LogitOps) -> None:
    draw = torch.Generator().manual_seed(0)
    for logits in (torch.randn(4, 8, generator=draw).half(), torch.randn(8, 4, generator=draw).t()):
        for got, expected in zip(*(ops.argmax_with_logprob(logits, 2) for ops in (made, PLAIN_LOGIT_OPS)), strict=True):
            assert got.equal(expected)


def test_loading_builds_them(made: LogitOps) -> None:
    lm = dkv.load("tiny", dtype="float32", compile=True)
    assert "built in" in str(lm.compile_report["compile"])
    assert isinstance(lm.network, Transformer)
    assert isinstance(lm.network.logit_ops, NativeLogitOps)
    asked = "What is 3 plus 4?"
    assert (
        lm.generate(asked, gen_length=16)[0].token_ids
        == dkv.load("tiny", dtype="float32").generate(asked, gen_length=16)[0].token_ids
    )


def test_without_a_compiler_torchs_are_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    without = native_logit_ops(report := CompileReport())
    assert "stays torch's: no C compiler" in str(report)
    logits = torch.randn(3, 8)
    got, expected = (ops.argmax_with_logprob(logits, 2) for ops in (without, PLAIN_LOGIT_OPS))
    assert got[0].equal(expected[0])
    assert got[1].equal(expected[1])


@pytest.mark.parametrize("compiler", ["no-such-compiler", "false", "echo", "gcc '"])
def test_a_compiler_that_fails_is_named(monkeypatch: pytest.MonkeyPatch, compiler: str) -> None:
    """Also one that says that all is well and has made nothing."""
    monkeypatch.setenv("CC", compiler)
    with pytest.raises(BuildError, match=compiler):
        build()
    native_logit_ops(report := CompileReport())
    assert len(str(report).splitlines()) == 1


def test_a_source_that_does_not_compile_says_where(tmp_path: Path, made: LogitOps) -> None:
    source = tmp_path / "broken.c"
    source.write_text("int norm(\n")
    with pytest.raises(BuildError, match=r"broken\.c"):
        build(source)


def test_nothing_built_stays_on_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, made: LogitOps) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    build()
    assert list(tmp_path.iterdir()) == []
