"""The network that is trained: LLaDA's architecture with LLaDA's weight names, kept as small as training needs; with
fewer key heads, biases and a shift it is Dream's, which `recipes.tiny.export` writes under Dream's names.

Shapes: B rows, L positions, C width, H heads, D = C / H. Inference lives elsewhere (dkv.models) and reads only the
exported files; this module knows nothing of caches or decoding.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

ROPE_THETA = 10000.0
EPSILON = 1e-5


@dataclass(frozen=True)
class Shape:
    """The sizes of the network. kv_heads: 0 = as many as heads; biased: biases on q, k and v; shift: 1 where row p
    predicts token p + 1."""

    width: int = 256
    layers: int = 4
    heads: int = 4
    hidden: int = 704
    vocabulary: int = 1792
    context: int = 2048
    kv_heads: int = 0
    biased: bool = False
    shift: int = 0

    @property
    def keys(self) -> int:
        """Key and value heads."""
        return self.kv_heads or self.heads

    @property
    def head(self) -> int:
        """Width of a head."""
        return self.width // self.heads


class Norm(nn.Module):
    """RMS norm in float32 with a weight, as in LLaDA."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """x [..., C], scaled to a root mean square of one and weighted."""
        wide = x.float()
        return self.weight * (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + EPSILON)).to(x.dtype)


def rope_tables(length: int, head: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines [length, head] of rotary positions (Su et al. 2021), halves duplicated for `rotate`."""
    frequency = 1.0 / ROPE_THETA ** (torch.arange(0, head, 2).float() / head)
    angle = torch.outer(torch.arange(length).float(), frequency)
    angle = torch.cat((angle, angle), dim=-1)
    return angle.cos(), angle.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn [B, H, L, D] by its positions, first half against second half."""
    a, b = x.chunk(2, dim=-1)
    return (x * cos + torch.cat((-b, a), dim=-1) * sin).to(x.dtype)


class Block(nn.Module):
    """One LLaMA block, bidirectional. Attention is written out: compiled, it trains faster on a CPU than SDPA."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        c, self.head = shape.width, shape.head
        self.attn_norm, self.ff_norm = Norm(c), Norm(c)
        self.q_proj = nn.Linear(c, c, bias=shape.biased)
        self.k_proj, self.v_proj = (nn.Linear(c, self.head * shape.keys, bias=shape.biased) for _ in range(2))
        self.attn_out = nn.Linear(c, c, bias=False)
        self.group = shape.heads // shape.keys
        self.ff_proj, self.up_proj = nn.Linear(c, shape.hidden, bias=False), nn.Linear(c, shape.hidden, bias=False)
        self.ff_out = nn.Linear(shape.hidden, c, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, bias: Tensor) -> Tensor:
        """x [B, L, C], cos and sin [L, D], bias [B, 1, 1, L] with a large negative where there is padding."""
        b, length, c = x.shape
        h = self.attn_norm(x)
        q, k, v = (p(h).view(b, length, -1, self.head).transpose(1, 2) for p in (self.q_proj, self.k_proj, self.v_proj))
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        if self.group > 1:
            k, v = (t.repeat_interleave(self.group, 1) for t in (k, v))
        scores = (q * (q.shape[-1] ** -0.5)) @ k.transpose(-1, -2) + bias
        mixed = torch.softmax(scores.float(), dim=-1).to(v.dtype) @ v
        x = x + self.attn_out(mixed.transpose(1, 2).reshape(b, length, c))
        h = self.ff_norm(x)
        out: Tensor = x + self.ff_out(functional.silu(self.ff_proj(h)) * self.up_proj(h))
        return out


class Transformer(nn.Module):
    """Holds the parts under the names of the published checkpoints."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.wte = nn.Embedding(shape.vocabulary, shape.width)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.ln_f = Norm(shape.width)
        self.ff_out = nn.Linear(shape.width, shape.vocabulary, bias=False)


class Inner(nn.Module):
    """The published names begin `model.transformer.`."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.transformer = Transformer(shape)


class Network(nn.Module):
    """Tokens in, hidden states out; `head` turns chosen hidden states into logits."""

    cos: Tensor
    sin: Tensor

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.model = Inner(shape)
        cos, sin = rope_tables(shape.context, shape.head)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        self.run_block: Callable[..., Tensor] = lambda block, *rest: block(*rest)

    def compile_blocks(self) -> None:
        """Compile the block once a shape; the layers share the code."""
        # one compilation a bucket: the default limit of 8 would leave the other buckets eager
        torch._dynamo.config.recompile_limit = 64
        self.run_block = torch.compile(lambda block, *rest: block(*rest), dynamic=False)

    def forward(self, tokens: Tensor, length: Tensor, fast: bool = True) -> Tensor:
        """Final hidden states [B, L, C] of tokens [B, L], of which the first `length` [B] of each row are real."""
        parts = self.model.transformer
        size = tokens.shape[1]
        x = parts.wte(tokens)
        padding = torch.arange(size, device=tokens.device)[None] >= length[:, None]
        bias = torch.zeros_like(padding, dtype=torch.float32).masked_fill(padding, -1e4)[:, None, None]
        if torch.is_autocast_enabled(x.device.type):
            kind = torch.get_autocast_dtype(x.device.type)
            x, bias = x.to(kind), bias.to(kind)
        run = self.run_block if fast else (lambda block, *rest: block(*rest))
        for block in parts.blocks:
            x = run(block, x, self.cos[:size], self.sin[:size], bias)
        out: Tensor = parts.ln_f(x)
        return out

    def rows(self, positions: Tensor) -> Tensor:
        """The rows that predict the tokens at positions [...]."""
        return (positions - self.shape.shift).clamp(min=0)

    def head(self, hidden: Tensor) -> Tensor:
        """Logits [..., V] of hidden states [..., C]."""
        logits: Tensor = self.model.transformer.ff_out(hidden)
        return logits


def initialise(network: Network, mask: int, seed: int) -> None:
    """Embeddings of size 1, the head their small copy (so copying a token is easy to learn), blocks that start as
    the identity; the head's row of the mask starts at zero, or its logit would tower over all others."""
    generator = torch.Generator().manual_seed(seed)
    parts = network.model.transformer
    with torch.no_grad():
        for weight in network.parameters():
            if weight.ndim == 2:
                weight.normal_(0, weight.shape[1] ** -0.5, generator=generator)
        for name, weight in network.named_parameters():
            if name.endswith(".bias"):
                weight.zero_()
        for name, weight in parts.blocks.named_parameters():
            if name.endswith(("attn_out.weight", "ff_out.weight")):
                weight.zero_()
        parts.wte.weight.normal_(0, 1, generator=generator)
        parts.ff_out.weight.copy_(parts.wte.weight / network.shape.width**0.5)
        parts.ff_out.weight[mask] = 0
