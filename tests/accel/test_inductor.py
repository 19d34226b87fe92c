"""Compiled layers compute what they compute as ever, in few graphs, and where they cannot be built nothing changes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

import dkv
from dkv.accel.backend import choose_backend
from dkv.accel.compile_report import CompileReport
from dkv.accel.inductor import Compiled
from dkv.core.kv_cache import LayerCache
from dkv.core.layer_rules import RotaryPhase, Rules
from dkv.core.loop import State
from dkv.core.packing import PackedRows, pack
from dkv.layers.transformer import TransformerBlock, dense
from dkv.models import Transformer, load_model
from tests.support.pages import ROOT
from tests.support.runs import POLICIES, start, start_and_play

ROUNDING = 1e-4
"""What summing in another order comes to: 2e-5 was met, in what a third layer's MLP adds."""
ONE, RAGGED = [[3, 4, 5, 6, 7]], [[3, 4, 5], [9] * 20, [8, 1]]


@pytest.fixture(scope="module")
def model(bare: Path) -> Transformer:
    """As `load` makes it to be compiled: no weight in a layout that only the kernels know."""
    return load_model(bare, torch.device("cpu"), torch.float32, arrange=False)


@pytest.fixture(scope="module")
def dream() -> Transformer:
    """The same of a small Dream."""
    return load_model(ROOT / "tests" / "reference" / "dkv" / "dream", torch.device("cpu"), torch.float32, arrange=False)


def differences(model: Transformer, fast: Transformer, cache: str, prompts: Sequence[Sequence[int]]) -> list[str]:
    """What a run with and a run without compiling do not agree on."""
    slow, _ = start_and_play(model, prompts, 12, 6, cache=cache)
    quick, _ = start_and_play(fast, prompts, 12, 6, cache=cache)
    found = [] if torch.equal(slow.canvas.tokens, quick.canvas.tokens) else ["tokens"]
    for own, other in zip(slow.memory.layers, quick.memory.layers, strict=True):
        found += [name for name, b in own.buffers.items() if not torch.allclose(b, other.buffers[name], atol=ROUNDING)]
    return found


@pytest.fixture(scope="module")
def traced(model: Transformer) -> tuple[Transformer, Compiled]:
    """Layers that are traced into graphs as for the compiler, and run without it."""
    layer = Compiled(CompileReport(), "eager")
    return replace(model, run=layer), layer


@pytest.mark.parametrize(
    ("cache", "prompts"),
    [("none", RAGGED), ("dkv-decode:refresh=3,delay=0,warmup=1", ONE), ("dllm-cache:kp=5,kr=3,rho=0.4", ONE)],
    ids=["none, ragged", "dkv-decode", "dllm-cache"],
)
def test_a_traced_layer_computes_the_same(
    model: Transformer, traced: tuple[Transformer, Compiled], cache: str, prompts: list[list[int]]
) -> None:
    assert differences(model, traced[0], cache, prompts) == []
    assert traced[1].report.graphs > 0
    assert traced[1].report.refused == 0, traced[1].report.note


@pytest.mark.slow
@pytest.mark.parametrize("guided", [False, True])
def test_every_cache_is_traced_in_few_graphs(model: Transformer, guided: bool) -> None:
    layer = Compiled(CompileReport(), "eager")
    fast, scale = replace(model, run=layer), 1.0 if guided else 0.0
    for cache in POLICIES:
        for prompts in (ONE, RAGGED):
            slow, _ = start_and_play(model, prompts, 12, cache=cache, cfg_scale=scale)
            quick, _ = start_and_play(fast, prompts, 12, cache=cache, cfg_scale=scale)
            assert torch.equal(slow.canvas.tokens, quick.canvas.tokens), cache
    assert layer.report.refused == 0, layer.report.note
    assert layer.report.graphs < 50


@pytest.mark.slow
@pytest.mark.parametrize("cache", ["dkv-decode:refresh=3,delay=0,warmup=1", "dllm-cache:kp=5,kr=3,rho=0.4"])
def test_the_compilers_own_code_computes_the_same(model: Transformer, dream: Transformer, cache: str) -> None:
    for network, prompts in ((model, RAGGED), (dream, ONE)):
        layer = Compiled(CompileReport())
        assert differences(network, replace(network, run=layer), cache, prompts) == []
        assert layer.report.graphs > 0, layer.report.note
        assert layer.report.seconds > 0


def test_changing_row_counts_need_no_new_graphs(model: Transformer) -> None:
    layer = Compiled(CompileReport(), "eager")
    fast = replace(model, run=layer)
    for length in (5, 6):
        start_and_play(fast, [[3] * length], 8, cache="dkv-decode:refresh=4")
    before = layer.report.graphs
    for length in (7, 9, 11):
        start_and_play(fast, [[3] * length], 10, cache="dkv-decode:refresh=4")
    assert layer.report.graphs == before


def test_sequences_that_attend_alone_are_not_compiled(model: Transformer) -> None:
    """One long row beside short ones: the host's own numbers decide what is done."""
    layer = Compiled(CompileReport(), "eager")
    state = start(replace(model, run=layer), [[3] * 60, [4], [5], [6]], 4, cache="dkv-decode")
    rows = torch.zeros_like(state.canvas.live)
    rows[0, :60] = True
    rows[1:, 0] = True
    at = pack(rows, [60, 1, 1, 1], state.canvas.live[:, None, None])
    assert at.grouping.alone
    state.model.forward(torch.zeros(63, dtype=torch.int64), at, state.memory, Rules())
    assert layer.report.graphs == 0


class Peeping:
    """A third party's rule that looks at a value, which no graph can hold. It keeps nothing."""

    buffers: tuple[str, ...] = ()

    def projected(self, carried: int, picked: int) -> int:
        return carried

    def __call__(
        self, block: TransformerBlock, x: Tensor, at: PackedRows, turn: RotaryPhase, memory: LayerCache
    ) -> Tensor:
        if float(x[0, 0]) > 1e9:
            raise RuntimeError
        return dense(block, x, at, turn, memory)


def test_what_cannot_be_traced_runs_as_ever_and_says_why(model: Transformer) -> None:
    layer = Compiled(CompileReport(), "eager")
    fast = replace(model, run=layer)
    peeping = Peeping()
    rules = Rules(peeping, peeping)
    plain, *quick = (forward(start(network, ONE, 4), rules) for network in (model, fast, fast))
    assert all(torch.equal(hidden, plain) for hidden in quick)
    assert layer.report.graphs == 0
    assert layer.report.refused == 1
    assert layer.report.note
    forward(start(fast, ONE, 4), Rules())
    assert layer.report.graphs == 1  # the compiler itself is well


def forward(state: State, rules: Rules) -> Tensor:
    """Carry every position."""
    live = state.canvas.live
    at = pack(live, live.sum(1).tolist(), None)
    with torch.inference_mode():
        return state.model.forward(state.canvas.tokens[live], at, state.memory, rules)


def test_a_compiler_that_builds_nothing_is_asked_once(model: Transformer) -> None:
    layer = Compiled(CompileReport(), "no-such-backend")
    fast = replace(model, run=layer)
    for cache in ("none", "dllm-cache:kp=5,kr=3,rho=0.4"):
        assert differences(model, fast, cache, ONE) == []
    assert layer.report.refused == 1
    assert "no-such-backend" in layer.report.note


WITHOUT = """
import sys
from dataclasses import replace
from pathlib import Path
import torch
from dkv.models import load_model
from dkv.accel.compile_report import CompileReport
from dkv.accel.inductor import Compiled
from tests.support.runs import start_and_play
layer = Compiled(CompileReport())
model = load_model(Path(sys.argv[1]), torch.device("cpu"), torch.float32, arrange=False)
runs = [start_and_play(m, [[3, 4, 5]], 8)[0] for m in (model, replace(model, run=layer))]
assert runs[0].canvas.tokens.equal(runs[1].canvas.tokens)
print(layer.report)
"""


@pytest.mark.slow
def test_without_a_c_compiler_the_tokens_are_the_same_and_one_line_says_so(bare: Path, tmp_path: Path) -> None:
    without = {**os.environ, "CXX": str(tmp_path / "none"), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    command = [sys.executable, "-W", "error", "-c", WITHOUT, str(bare)]
    done = subprocess.run(command, capture_output=True, text=True, env=without, check=True)
    assert done.stderr == ""
    assert done.stdout.startswith("not for 1 of its kinds of forwards (InvalidCxxCompiler")
    assert done.stdout.count("\n") == 1


@pytest.mark.usefixtures("built_once")
def test_load_prepares_and_saves_what_it_loaded(bare: Path, tmp_path: Path) -> None:
    """On a CPU it is the choice of tokens that is built (test_native_logits.py); elsewhere layers."""
    lm = dkv.load(bare, device="cpu", dtype="float32", compile=True)
    assert set(lm.compile_report) == {"compile"}
    lm.save(tmp_path / "saved")
    assert dkv.load(tmp_path / "saved", device="cpu", dtype="float32").compile_report == {}
    with pytest.raises(dkv.SettingError, match="compile=True does not go with tensor_parallel=2"):
        dkv.load(bare, compile=True, tensor_parallel=2)
    network = load_model(bare, torch.device("cpu"), torch.float32)
    backend = choose_backend(network, torch.device("cuda"), compile=True)
    assert isinstance(backend.network, Transformer)
    assert isinstance(backend.network.run, Compiled)
    assert backend.network.run.report is backend.reports["compile"]
