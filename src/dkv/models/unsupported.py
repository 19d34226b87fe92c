"""Architectures that dkv knows and refuses, with the reason: better one clear line than wrong text.

Several of them share a `model_type` with a supported family, so only the architecture's name tells them apart.
"""

from __future__ import annotations

__all__ = ["REFUSED"]

_EXPERTS = "its MLP is a mixture of experts, which dkv does not implement"
_BLOCKWISE = "its attention is causal between blocks, while dkv's is bidirectional over the whole canvas"
_BOTH = "its MLP is a mixture of experts and its attention is causal between blocks; dkv implements neither"
_DIT = "it is a DiT with adaptive norms, not a LLaMA-shaped network"
_DIT_BLOCKWISE = "it is a DiT with adaptive norms, and its attention is causal between blocks"
_QWEN = "its backbone's names and norms are not implemented in dkv"

REFUSED: dict[str, str] = {
    "A2DQwen3LMHeadModel": _QWEN,
    "BD3LM": _DIT_BLOCKWISE,
    "DiffusionGemmaForBlockDiffusion": "it denoises uniform noise with a causal encoder; dkv decodes masked models",
    "EfficientDLM": "its attention is bidirectional within blocks only and its queries and keys are normed",
    "Fast_dLLM_QwenForCausalLM": _BLOCKWISE,
    "LLaDA2MoeModelLM": _BOTH,
    "LLaDAMoEModelLM": _EXPERTS,
    "MDLM": _DIT,
    "ModernBertForMaskedLM": "it is an encoder with local attention in most layers, which dkv does not implement",
    "NemotronLabsDiffusionModel": _BLOCKWISE,
    "SDARForCausalLM": _BLOCKWISE,
    "SDARMoeForCausalLM": _BOTH,
}
"""Reasons by the entry of `architectures`."""
