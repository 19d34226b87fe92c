"""The passes in C compute what torch's do, row by row, and where nothing builds them torch's are used."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

import dkv
from dkv.accel.native.rowwise_ops import BuildError, Native, build, native, one_runtime
from dkv.core.kv_cache import LayerCache
from dkv.core.layer_rules import RotaryPhase
from dkv.core.packing import Counted, pack, select_rows
from dkv.layers.ops import Passes
from dkv.layers.transformer import sixteenths
from dkv.models import Transformer, load_model
from tests.support.checkpoints import config_of, dream_config_of, write_checkpoint
from tests.support.runs import POLICIES, start_and_play

NEAR = {torch.float32: 2e-6, torch.bfloat16: 2**-7}
TORCHS = Passes()
ONE = [[3, 4, 5, 6, 7]]
RAGGED = [[3, 4, 5, 6, 7], [8], [9, 10, 11]]


@pytest.fixture(scope="module")
def made(built: Native) -> Native:
    """The passes, on machines with a C compiler."""
    if "built in" not in str(built.warmth):
        pytest.skip(str(built.warmth))
    return built


def rows_of(dtype: torch.dtype, *shape: int, seed: int = 0) -> Tensor:
    """Numbers of many sizes."""
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=draw) * torch.exp(torch.randn(shape[:1], generator=draw)).view(
        -1, *[1] * (len(shape) - 1)
    )
    return x.to(dtype)


def turn_of(rows: int, size: int) -> RotaryPhase:
    """The rotation of rows at as many angles."""
    angle = torch.arange(rows)[:, None] * 0.37 ** torch.arange(1, size // 2 + 1)
    return RotaryPhase(torch.stack((angle.cos(), angle.sin()), dim=-1).unsqueeze(1))


def moved_of(passes: Passes, new: Tensor, old: Tensor) -> Tensor:
    """How far old rows [N, heads, D] move where they are one sequence's values."""
    cells = F.pad(old.transpose(0, 1), (0, 0, 0, 1))[None].contiguous()
    at = pack(torch.ones(1, len(old), dtype=torch.bool), [len(old)], None)
    return LayerCache({"v": cells}, passes).renew("v", at, new, "cosine", None)


def close(got: Tensor, expected: Tensor) -> None:
    near = NEAR[expected.dtype]
    torch.testing.assert_close(
        got, expected, rtol=near, atol=near * float(expected.abs().max()) if expected.numel() else 0
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@given(rows=st.integers(0, 40), heads=st.integers(1, 5), half=st.integers(1, 40), seed=st.integers(0, 99))
def test_passes_are_torchs(made: Native, dtype: torch.dtype, rows: int, heads: int, half: int, seed: int) -> None:
    """Whatever the width: what vector instructions leave over counts too."""
    size = 2 * half
    x, weight = rows_of(dtype, rows, heads * size, seed=seed), rows_of(dtype, heads * size, seed=seed + 1)
    for some, by in ((x, weight), (x[:, 1:].contiguous(), weight[1:].contiguous())):
        close(made.norm(some, by, 1e-5), TORCHS.norm(some, by, 1e-5))
    turn, stacked = turn_of(rows, size), x.view(rows, heads, size)
    close(made.turn(stacked.clone(), turn), TORCHS.turn(stacked, turn))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@given(
    lie=st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 7), st.integers(1, 40)),
    spare=st.integers(0, 2),
    seed=st.integers(0, 99),
)
def test_values_are_renewed_as_torch_does(
    made: Native, dtype: torch.dtype, lie: tuple[int, int, int, int], spare: int, seed: int
) -> None:
    """Also in a part of wider buffers, and where some rows must not be."""
    (batch, heads, width, size), draw = lie, torch.Generator().manual_seed(seed)
    carried, some = (torch.rand(batch, width, generator=draw) < share for share in (0.7, 0.3))
    at = pack(carried, carried.sum(1).tolist(), None)
    frozen = some.view(-1)[: len(at.slot)] if seed % 2 else None
    whole = rows_of(dtype, batch + spare, heads, width + spare + 1, size, seed=seed)
    for similarity in ("cosine", "l2"):
        mine, torchs = (LayerCache({"v": whole.clone()[:batch, :, : width + 1]}, moves) for moves in (made, TORCHS))
        held = torchs.take("v", at)
        moved = (held.float() * (1 + 1e-2 * rows_of(torch.float32, *held.shape, seed=seed + 2))).to(dtype)
        told, expected = (one.renew("v", at, moved, similarity, frozen) for one in (mine, torchs))
        torch.testing.assert_close(told, expected, rtol=1e-3, atol=1e-9)
        assert told.dtype == torch.float32
        assert mine.buffers["v"][:, :, :-1].equal(torchs.buffers["v"][:, :, :-1])
        assert mine.take("v", at).equal(moved if frozen is None else torch.where(frozen[:, None, None], held, moved))
        assert not mine.renew("v", at, mine.take("v", at), similarity, frozen).any()


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_row_is_alike_in_any_company(made: Native, dtype: torch.dtype) -> None:
    """To the last bit, also where several threads share the rows."""
    x, old, weight, turn = (
        rows_of(dtype, 300, 4, 36),
        rows_of(dtype, 300, 4, 36, seed=1),
        rows_of(dtype, 144),
        turn_of(300, 36),
    )
    normed, turned = made.norm(x.flatten(1), weight, 1e-5), made.turn(x.clone(), turn)
    moved = moved_of(made, x, old)
    for first, last in ((0, 1), (7, 8), (5, 17), (100, 299)):
        some = slice(first, last)
        assert made.norm(x[some].flatten(1), weight, 1e-5).equal(normed[some])
        assert made.turn(x[some].clone(), RotaryPhase(turn.phase[some])).equal(turned[some])
        assert moved_of(made, x[some], old[some]).equal(moved[some])


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_no_number_stays_none(made: Native, dtype: torch.dtype) -> None:
    x = torch.ones(3, 6, dtype=dtype)
    x[1, 2], x[2, 0] = torch.nan, torch.inf
    for got in (made.norm(x, torch.ones(6, dtype=dtype), 1e-5), TORCHS.norm(x, torch.ones(6, dtype=dtype), 1e-5)):
        assert got.isnan().any(1).tolist() == [False, True, True]


@given(
    lie=st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 7), st.integers(1, 9)),
    spare=st.integers(0, 2),
    beside=st.integers(0, 3),
    seed=st.integers(0, 9),
)
def test_rows_go_into_their_cells(
    made: Native, lie: tuple[int, int, int, int], spare: int, beside: int, seed: int
) -> None:
    """Also of a part of wider buffers, and from rows that lie apart, as keys do beside queries."""
    (batch, heads, width, size), draw = lie, torch.Generator().manual_seed(seed)
    carried = torch.rand(batch, width, generator=draw) < 0.7
    at = pack(carried, carried.sum(1).tolist(), None)
    value = rows_of(torch.bfloat16, len(at.slot), heads + beside, size, seed=seed)[:, beside:]
    own, other = (torch.zeros(batch + spare, heads, width + spare + 1, size, dtype=torch.bfloat16) for _ in "ab")
    for buffer, moves in ((own, made), (other, TORCHS)):
        LayerCache({"k": buffer[:batch, :, : width + 1]}, moves).write("k", at, value)
    assert own.equal(other)
    assert own.any(3).sum() == len(at.slot) * heads


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@given(rows=st.integers(0, 9), size=st.integers(1, 40), seed=st.integers(0, 9))
def test_what_cells_hold_is_added(made: Native, dtype: torch.dtype, rows: int, size: int, seed: int) -> None:
    """To the last bit as torch adds."""
    cells, x = rows_of(dtype, rows + 3, size, seed=seed), rows_of(dtype, rows, size, seed=seed + 1)
    numbers = torch.randperm(rows + 3, generator=torch.Generator().manual_seed(seed))[:rows]
    before = x.clone()
    assert made.add_kept(cells, numbers, x).equal(TORCHS.add_kept(cells, numbers, x))
    assert x.equal(before)


@given(batch=st.integers(1, 3), width=st.integers(1, 40), kinds=st.integers(1, 9), seed=st.integers(0, 999))
def test_the_same_rows_are_picked(made: Native, batch: int, width: int, kinds: int, seed: int) -> None:
    """Forced ones before all others, frozen ones after them, of equals the first."""
    draw = torch.Generator().manual_seed(seed)

    def some(share: float) -> Tensor:
        return torch.rand(batch, width, generator=draw) < share

    carried, forced = some(0.7), some(0.2)
    counts = carried.sum(1)
    picks = torch.minimum((carried & forced).sum(1) + torch.randint(0, 5, (batch,), generator=draw), counts)
    if not picks.any():
        return
    at = pack(carried, counts.tolist(), None, sixteenths)
    all_of, some_of = (Counted(each.tolist(), each) for each in (counts, picks))
    at = replace(at, selection=select_rows(at, all_of, some_of, forced, some(0.2) & ~forced, sixteenths))
    score = torch.randint(0, kinds, (len(at.slot),), generator=draw).float()
    if seed % 10 == 0:
        score[:] = torch.nan  # then the first, unless some are forced
    mine, torchs = (passes.pick(at, score) for passes in (made, TORCHS))
    real = int(picks.sum())
    assert mine.index is not None
    assert torchs.index is not None
    order, others = (each[:real].sort().indices for each in (mine.index, torchs.index))
    for name in ("slot", "slot_mapping", "sequence", "index"):
        assert getattr(mine, name)[:real][order].equal(getattr(torchs, name)[:real][others])
    assert (mine.slot[real:] == at.width).all()
    assert (mine.slot_mapping[real:] == at.width).all()


@given(
    rows=st.integers(0, 5),
    vocab=st.integers(2, 300),
    mask=st.integers(0, 299),
    kind=st.integers(0, 3),
    seed=st.integers(0, 99),
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_best_tokens_are_torchs(
    made: Native, dtype: torch.dtype, rows: int, vocab: int, mask: int, kind: int, seed: int
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
    told, expected = (passes.argmax_with_logprob(logits, mask) for passes in (made, TORCHS))
    assert told[0].equal(expected[0])
    torch.testing.assert_close(told[1], expected[1], rtol=2e-6, atol=1e-30)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_many_logits_are_summed_as_exactly(made: Native, dtype: torch.dtype) -> None:
    logits = (3 * torch.randn(7, 126_464, generator=torch.Generator().manual_seed(0))).to(dtype)
    token, confidence = made.argmax_with_logprob(logits, 126_336)
    exact = logits.double().log_softmax(1).gather(1, token[:, None]).squeeze(1)
    torch.testing.assert_close(confidence.double(), exact, rtol=1e-6, atol=0)


def test_what_it_does_not_know_torch_does(made: Native) -> None:
    for x in (torch.randn(4, 8, dtype=torch.float64), torch.randn(4, 8).half(), torch.randn(8, 4).t()):
        weight = torch.ones(8, dtype=x.dtype)
        assert made.norm(x, weight, 1e-5).equal(TORCHS.norm(x, weight, 1e-5))
        assert moved_of(made, x[:, None], 2 * x[:, None]).equal(moved_of(TORCHS, x[:, None], 2 * x[:, None]))
    halves = torch.randn(4, 2, 4).half()
    assert made.turn(halves, turn_of(4, 4)).equal(TORCHS.turn(halves, turn_of(4, 4)))


@pytest.fixture(scope="module", params=["llada", "dream"])
def models(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, made: Native
) -> tuple[Transformer, Transformer]:
    """A model with torch's passes and the same with these."""
    config = config_of() if request.param == "llada" else dream_config_of()
    directory = write_checkpoint(tmp_path_factory.mktemp("model"), config)
    model = load_model(directory, torch.device("cpu"), torch.float32)
    return model, model.passing(made)


@pytest.mark.parametrize("prompts", [ONE, RAGGED], ids=["one", "ragged"])
@pytest.mark.parametrize("cache", POLICIES)
def test_every_cache_gives_the_same_tokens(
    models: tuple[Transformer, Transformer], cache: str, prompts: list[list[int]]
) -> None:
    runs = [start_and_play(model, prompts, 12, 6, cache=cache)[0] for model in models]
    assert runs[0].canvas.tokens.equal(runs[1].canvas.tokens)
    for one, other in zip(runs[0].memory.layers, runs[1].memory.layers, strict=True):
        for name, buffer in one.buffers.items():
            torch.testing.assert_close(other.buffers[name][:, :, :-1], buffer[:, :, :-1], rtol=1e-4, atol=1e-5)


def test_loading_builds_them(made: Native) -> None:
    lm = dkv.load("tiny", dtype="float32", compile=True)
    assert "built in" in str(lm.compile_report["compile"])
    assert isinstance(lm.network, Transformer)
    assert all(isinstance(block.passes, Native) for block in lm.network.blocks)
    asked = "What is 3 plus 4?"
    assert (
        lm.generate(asked, gen_length=16)[0].token_ids
        == dkv.load("tiny", dtype="float32").generate(asked, gen_length=16)[0].token_ids
    )


def test_without_a_compiler_torchs_are_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    without = native()
    assert "stays torch's: no C compiler" in str(without.warmth)
    x = torch.randn(3, 8)
    assert without.norm(x, torch.ones(8), 1e-5).equal(TORCHS.norm(x, torch.ones(8), 1e-5))
    layer, at = (
        LayerCache({"k": torch.zeros(1, 1, 4, 8)}, without),
        pack(torch.tensor([[False, True, False]]), [1], None),
    )
    layer.write("k", at, x[:1, None])
    assert layer.buffers["k"][0, 0, 1].equal(x[0])


@pytest.mark.parametrize("compiler", ["no-such-compiler", "false", "echo", "gcc '"])
def test_a_compiler_that_fails_is_named(monkeypatch: pytest.MonkeyPatch, compiler: str) -> None:
    """Also one that says that all is well and has made nothing."""
    monkeypatch.setenv("CC", compiler)
    with pytest.raises(BuildError, match=compiler):
        build()
    assert len(str(native().warmth).splitlines()) == 1


def test_a_source_that_does_not_compile_says_where(tmp_path: Path, made: Native) -> None:
    source = tmp_path / "broken.c"
    source.write_text("int norm(\n")
    with pytest.raises(BuildError, match=r"broken\.c"):
        build(source)


def test_nothing_built_stays_on_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, made: Native) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    build()
    assert list(tmp_path.iterdir()) == []
