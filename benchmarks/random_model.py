"""Random-weight models of a given shape, for timing: speed does not depend on what the weights say."""

from __future__ import annotations

import torch

from dkv.model import ModelConfig
from dkv.models.layers import Block, Rotary, Transformer

__all__ = ["random_model", "shape"]


def shape(width: int, layers: int, heads: int, mlp_width: int, vocab: int, context: int = 4096) -> ModelConfig:
    """A LLaDA-shaped config; the last three ids are end-of-text, padding and mask."""
    return ModelConfig(
        family="llada",
        layers=layers,
        width=width,
        heads=heads,
        kv_heads=heads,
        head_dim=width // heads,
        mlp_width=mlp_width,
        vocab=vocab,
        context=context,
        norm_eps=1e-5,
        rope_theta=10000.0,
        mask_id=vocab - 1,
        eos_ids=(vocab - 3,),
        pad_id=vocab - 2,
        shift=0,
        tied=False,
        default_decoder="confidence",
    )


def random_model(config: ModelConfig, dtype: torch.dtype, seed: int = 0) -> Transformer:
    """Weights drawn at a scale that keeps activations of order one."""
    draw = torch.Generator().manual_seed(seed)

    def weight(*dims: int) -> torch.Tensor:
        return torch.randn(dims, generator=draw).div(dims[-1] ** 0.5).to(dtype)

    c = config
    blocks = tuple(
        Block(
            config=c,
            attn_norm=torch.ones(c.width, dtype=dtype),
            mlp_norm=torch.ones(c.width, dtype=dtype),
            qk_weight=weight(2 * c.width, c.width),
            v_weight=weight(c.width, c.width),
            out_weight=weight(c.width, c.width),
            gate_up_weight=weight(2 * c.mlp_width, c.width),
            down_weight=weight(c.width, c.mlp_width),
        )
        for _ in range(c.layers)
    )
    return Transformer(
        config=c,
        embedding=weight(c.vocab, c.width),
        blocks=blocks,
        final_norm=torch.ones(c.width, dtype=dtype),
        head_weight=weight(c.vocab, c.width),
        rotary=Rotary(c, torch.device("cpu")),
    )
