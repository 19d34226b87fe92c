"""The same weights run as an autoregressive model: a causal mask, an exact cache, a token a step.

What such a model of the same shape takes is the mark that diffusion models are held to. The text means nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from dkv.core.kv_cache import LayerCache
from dkv.core.layer_rules import RotaryPhase
from dkv.core.model import ModelConfig
from dkv.lab.bench.flops import LayerWork, Work
from dkv.layers.attention import SelfAttention
from dkv.layers.cpu_linear import linear
from dkv.layers.transformer import Transformer

__all__ = ["Autoregressive", "autoregressive_work"]


def autoregressive_work(config: ModelConfig, prompt: int, gen_length: int, batch: int) -> Iterator[Work]:
    """What each step of the class below computes: a row attends to itself and to what came before."""
    for seen in (0, *range(prompt, prompt + gen_length - 1)):
        rows = 1 if seen else prompt
        pairs = rows * seen + rows * (rows + 1) // 2
        yield Work((LayerWork(config.layers, batch * rows, batch * rows, batch * pairs),), batch)


class Autoregressive:
    """B prompts of one length, being continued by `gen_length` tokens each, the likeliest at each step.

    The first step runs the prompts and gives the first token; the last token is not run, since nothing reads it.
    """

    def __init__(self, model: Transformer, prompts: Sequence[Sequence[int]], gen_length: int) -> None:
        self._model, self._gen_length = model, gen_length
        self._tokens = torch.tensor([list(p) for p in prompts], device=model.device)
        self._seen, self._made = 0, 0
        self.memory = model.new_kv_cache(len(prompts), self._tokens.shape[1] + gen_length)

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

    def _forward(self, new: Tensor) -> Tensor:
        """Hidden states [B * R, C] of new tokens [B, R], whose keys and values are stored."""
        model, (batch, rows) = self._model, new.shape
        slots = torch.arange(self._seen, self._seen + rows, device=new.device)
        turn = model.rotary.turn(slots.repeat(batch))
        x = F.embedding(new.flatten(), model.embedding)
        for block, layer in zip(model.blocks, self.memory.layers, strict=True):
            x = x + self._attend(block.attention, block.norm(x, block.attn_norm), turn, layer, (batch, rows))
            x = x + block.mlp(x)
        return x

    def _attend(
        self, part: SelfAttention, h: Tensor, turn: RotaryPhase, layer: LayerCache, shape: tuple[int, int]
    ) -> Tensor:
        """Attention of h [B * R, C] over what came before and itself, projected."""
        first, last = self._seen, self._seen + shape[1]
        q, k = part.qk(h, turn)
        by_sequence = [x.view(*shape, *x.shape[1:]).transpose(1, 2) for x in (q, k, part.value(h))]
        for name, value in zip("kv", by_sequence[1:], strict=True):
            layer.buffers[name][:, :, first:last] = value
        keys, values = (layer.buffers[name][:, :, :last] for name in "kv")
        # Only the first step has several rows, and there are no keys before them: the square causal mask fits.
        grouped = q.shape[1] != keys.shape[1]
        causal = shape[1] > 1
        mixed = F.scaled_dot_product_attention(by_sequence[0], keys, values, is_causal=causal, enable_gqa=grouped)
        return linear(mixed.transpose(1, 2).flatten(2).flatten(0, 1), part.out_weight)

    @property
    def token_ids(self) -> list[list[int]]:
        """What each sequence was continued by."""
        ids: list[list[int]] = self._tokens[:, -self._gen_length :].tolist()
        return ids
