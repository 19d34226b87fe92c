"""What is timed, step by step: a generation by the engine, and one token by token, behind one face."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, cast

from dkv.lab.bench.autoregressive import Autoregressive, autoregressive_work
from dkv.lab.bench.flops import Work, work_of
from dkv.lab.bench.grid import AUTOREGRESSIVE, Cell, settings_of
from dkv.lab.common.agreement import agreement
from dkv.lab.common.engine_batch import EngineBatch, requests_of
from dkv.layers.transformer import Transformer
from dkv.lm import DiffusionLM
from dkv.outputs import Generation

__all__ = ["Denoising", "RunOutcome", "Runner", "TokenByToken", "runner_of"]


@dataclass(frozen=True)
class RunOutcome:
    """What a finished run came to, of the whole batch. works: of each forward, where counted; generations: () of a run
    that is no diffusion model's; the rest as in `Result`."""

    works: tuple[Work, ...]
    generations: tuple[Generation, ...]
    new_tokens: int
    rows_computed: float
    rows_total: int
    cache_bytes: int

    def agreement(self, none: RunOutcome) -> float | None:
        """Mean share of tokens equal to those of no cache."""
        if not self.generations:
            return None
        pairs = list(zip(self.generations, none.generations, strict=True))
        return sum(agreement(own, other) for own, other in pairs) / len(pairs)


class Runner(Protocol):
    """A run that is taken step by step."""

    def step(self) -> bool:
        """Take a step; False where there was none left."""
        ...

    def outcome(self) -> RunOutcome:
        """What the finished run came to."""
        ...


class Denoising:
    """The engine at a cell's settings. counted: keep count of its work, which a timed run need not pay for."""

    def __init__(self, lm: DiffusionLM, cell: Cell, prompts: Sequence[Sequence[int]], counted: bool) -> None:
        model, settings = lm.model, settings_of(cell)
        requests = requests_of(prompts, settings.seeds(len(prompts)), settings)
        self._batch = EngineBatch(model, lm.tokenizer, requests, lm.bucket, leave=True)
        self._layers, self._counted, self._works = model.config.layers, counted, list[Work]()

    def step(self) -> bool:
        """One denoising step."""
        output = self._batch.step()
        if output is not None and self._counted:  # the output itself is not kept: it holds the logits
            self._works.append(work_of(output, output.lengths, self._layers))
        return output is not None

    def outcome(self) -> RunOutcome:
        """Counts and results."""
        generations = tuple(self._batch.results())
        return RunOutcome(
            works=tuple(self._works),
            generations=generations,
            new_tokens=sum(g.stats.new_tokens for g in generations),
            rows_computed=sum(g.stats.rows_computed for g in generations),
            rows_total=sum(g.stats.rows_total for g in generations),
            cache_bytes=self._batch.cache_bytes,
        )


class TokenByToken:
    """The same weights as an autoregressive model, as many tokens as the canvas is long."""

    def __init__(self, model: Transformer, cell: Cell, prompts: Sequence[Sequence[int]]) -> None:
        self._inner, self._config, self._cell = Autoregressive(model, prompts, cell.gen), model.config, cell

    def step(self) -> bool:
        """One token of each sequence."""
        return self._inner.step()

    def outcome(self) -> RunOutcome:
        """Counts; the text means nothing."""
        cell = self._cell
        works = tuple(autoregressive_work(self._config, cell.prompt, cell.gen, cell.batch))
        rows = sum(work.parts[0].rows for work in works)
        return RunOutcome(works, (), cell.gen * cell.batch, rows, rows, self._inner.memory.nbytes)


def runner_of(lm: DiffusionLM, cell: Cell, prompts: Sequence[Sequence[int]], counted: bool = False) -> Runner:
    """A cell, ready to take its first step. counted: its outcome will tell of its work."""
    if cell.cache == AUTOREGRESSIVE:
        return TokenByToken(cast("Transformer", lm.model), cell, prompts)
    return Denoising(lm, cell, prompts, counted)
