"""What is timed, step by step: a generation by the engine, and one token by token, behind one face."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from dkv.core.kv_cache import LayerCache
from dkv.core.layer_rules import RotaryPhase
from dkv.core.model import ModelConfig
from dkv.lab.bench.flops import LayerWork, Work, work_of
from dkv.lab.bench.grid import AUTOREGRESSIVE, Cell, settings_of
from dkv.lab.common.agreement import agreement
from dkv.lab.common.engine_batch import EngineBatch, batch_of
from dkv.layers.cpu_linear import linear
from dkv.layers.transformer import Transformer, TransformerBlock
from dkv.lm import DiffusionLM
from dkv.outputs import Generation

__all__ = ["Autoregressive", "Denoising", "RunOutcome", "Runner", "autoregressive_work", "runner_of"]


@dataclass(frozen=True)
class RunOutcome:
    """What a finished run came to, of the whole batch; the rest as in `Result`."""

    works: tuple[Work, ...]  # of each forward, where counted
    generations: tuple[Generation, ...]  # () of a run that is no diffusion model's
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
    """A batch of the engine. counted: keep count of its work, which a timed run need not pay for."""

    def __init__(self, batch: EngineBatch, layers: int, *, counted: bool = False) -> None:
        self._batch, self._layers, self._counted, self._works = batch, layers, counted, list[Work]()

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


def autoregressive_work(config: ModelConfig, prompt: int, gen_length: int, batch: int) -> Iterator[Work]:
    """What each step of the class below computes: a row attends to itself and to what came before."""
    for seen in (0, *range(prompt, prompt + gen_length - 1)):
        rows = 1 if seen else prompt
        pairs = rows * seen + rows * (rows + 1) // 2
        yield Work((LayerWork(config.layers, batch * rows, batch * rows, batch * pairs),), batch)


class Autoregressive:
    """The same weights as an autoregressive model: B prompts of one length, a causal mask, an exact cache, at each step
    the likeliest token. What that takes is the mark that diffusion models are held to; the text means nothing.

    The first step runs the prompts and gives the first token; the last token is not run, since nothing reads it.
    """

    def __init__(self, model: Transformer, prompts: Sequence[Sequence[int]], gen_length: int) -> None:
        self._model, self._gen_length = model, gen_length
        self._tokens = torch.tensor([list(p) for p in prompts], device=model.device)
        self._seen, self._made = 0, 0
        self._memory = model.new_kv_cache(len(prompts), self._tokens.shape[1] + gen_length)

    @torch.inference_mode()
    def step(self) -> bool:
        """Add a token to each sequence; False when all are there."""
        if self._made == self._gen_length:
            return False
        new = self._tokens[:, self._seen :]
        batch, rows = new.shape
        x = self._forward(new)
        token = self._model.logits(x.view(batch, rows, -1)[:, -1]).argmax(1)
        self._tokens = torch.cat((self._tokens, token[:, None]), dim=1)
        self._seen, self._made = self._seen + rows, self._made + 1
        return True

    def outcome(self) -> RunOutcome:
        """Counts."""
        batch, length = self._tokens.shape
        works = tuple(autoregressive_work(self._model.config, length - self._made, self._made, batch))
        rows = sum(work.parts[0].rows for work in works)
        return RunOutcome(works, (), self._made * batch, rows, rows, self._memory.nbytes)

    @property
    def token_ids(self) -> list[list[int]]:
        """What each sequence was continued by."""
        ids: list[list[int]] = self._tokens[:, -self._gen_length :].tolist()
        return ids

    def _forward(self, new: Tensor) -> Tensor:
        """Hidden states [B * R, C] of new tokens [B, R], whose keys and values are stored."""
        model, (batch, rows) = self._model, new.shape
        slots = torch.arange(self._seen, self._seen + rows, device=new.device)
        turn = model.rotary.turn(slots.repeat(batch))
        x = F.embedding(new.flatten(), model.embedding)
        for block, layer in zip(model.blocks, self._memory.layers, strict=True):
            x = x + self._attend(block, block.norm(x, block.attn_norm), turn, layer, (batch, rows))
            x = x + block.mlp(x)
        return x

    def _attend(
        self, block: TransformerBlock, h: Tensor, turn: RotaryPhase, layer: LayerCache, shape: tuple[int, int]
    ) -> Tensor:
        """Attention of h [B * R, C] over what came before and itself, projected."""
        first, last = self._seen, self._seen + shape[1]
        q, k = block.qk(h, turn)
        by_sequence = [x.view(*shape, *x.shape[1:]).transpose(1, 2) for x in (q, k, block.value(h))]
        for name, value in zip("kv", by_sequence[1:], strict=True):
            layer.buffers[name][:, :, first:last] = value
        keys, values = (layer.buffers[name][:, :, :last] for name in "kv")
        # Only the first step has several rows, and there are no keys before them: the square causal mask fits.
        grouped = q.shape[1] != keys.shape[1]
        causal = shape[1] > 1
        mixed = F.scaled_dot_product_attention(by_sequence[0], keys, values, is_causal=causal, enable_gqa=grouped)
        return linear(mixed.transpose(1, 2).flatten(2).flatten(0, 1), block.out_weight)


def runner_of(lm: DiffusionLM, cell: Cell, prompts: Sequence[Sequence[int]], counted: bool = False) -> Runner:
    """A cell, ready to take its first step. counted: its outcome will tell of its work."""
    if cell.cache == AUTOREGRESSIVE:
        return Autoregressive(cast("Transformer", lm.model), prompts, cell.gen)
    settings = settings_of(cell)
    batch = batch_of(lm, prompts, settings, settings.seeds(len(prompts)), leave=True)
    return Denoising(batch, lm.model.config.layers, counted=counted)
