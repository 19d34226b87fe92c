"""What `dkv tune` tries: caches and decoders with the keys that users turn by hand.

A declared list, so that a rerun tries the same in the same order.
"""

from __future__ import annotations

from dataclasses import replace

from dkv.lab.eval.questions import Setting

__all__ = ["CACHES", "DECODERS", "space"]

CACHES: tuple[str, ...] = (
    "none",
    *(f"dkv-decode:refresh={n}" for n in (2, 4, 8, 16)),
    *(f"dkv-pd:refresh={n}" for n in (4, 8)),
    "dkv-prefill",
    *(f"dllm-cache:kp=50,kr={kr},rho={rho}" for kr in (2, 4, 7) for rho in (0.25, 0.5)),
    "fast-dual",
    "fast-prefix",
    "dkv-greedy:refresh=8",
    *(f"dkv-fill:rows={n}" for n in (16, 24, 40)),
)
"""Every cache, its cheap settings and its careful ones."""

DECODERS: tuple[str, ...] = (
    "confidence",
    "threshold:tau=0.999",
    "threshold:tau=0.99",
    "threshold:tau=0.95",
    "threshold:tau=0.9",
    "entropy-bound:gamma=0.01",
    "entropy-bound:gamma=0.1",
    "credit:tau=0.995",
)
"""One token a step, and several while the model is sure."""


def space(
    reference: str,
    caches: tuple[str, ...] = CACHES,
    decoders: tuple[str, ...] = DECODERS,
    block_length: int | None = None,
    gen_length: int | None = None,
) -> list[Setting]:
    """Every cache with every decoder, the reference first: no cache and the decoder `reference` (the family's own),
    which is what answers are compared with. All have the same canvas: with a block_length it grows by so many positions
    up to gen_length, without one it is as long as the task says."""
    first = Setting(reference, "none", block_length=block_length, gen_length=gen_length, grow=block_length is not None)
    every = (replace(first, decoder=decoder, cache=cache) for decoder in (reference, *decoders) for cache in caches)
    return list(dict.fromkeys((first, *every)))
