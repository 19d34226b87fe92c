"""Both papers' published settings by name: `preset:dllm/gsm8k-instruct` is the spec of the cache that they ran.

dllm/TASK-KIND are the evaluation scripts of dLLM-Cache for LLaDA, dllm/dream-TASK-KIND those for Dream (all with rho
0.25; kr=1 means that only the prompt is cached); dkv/... are the settings of dKV-Cache's result tables.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

__all__ = ["PRESETS"]

_LLADA = {
    "bbh-base": (50, 6),
    "bbh-instruct": (50, 6),
    "gpqa-base": (100, 8),
    "gpqa-instruct": (50, 6),
    "gsm8k-base": (100, 6),
    "gsm8k-instruct": (50, 7),
    "hotpotqa-instruct": (100, 8),
    "humaneval-base": (50, 5),
    "humaneval-instruct": (50, 8),
    "math-base": (50, 8),
    "math-instruct": (50, 1),
    "mbpp-base": (50, 4),
    "mbpp-instruct": (100, 5),
    "mmlu-base": (100, 6),
    "mmlu-instruct": (100, 7),
    "mmlu-pro-base": (100, 6),
    "mmlu-pro-instruct": (51, 3),
}
_DREAM = {
    "bbh-base": (25, 4),
    "bbh-instruct": (10, 2),
    "gpqa-base": (100, 8),
    "gpqa-instruct": (10, 8),
    "gsm8k-base": (100, 8),
    "gsm8k-instruct": (25, 2),
    "humaneval-base": (5, 1),
    "humaneval-instruct": (50, 1),
    "math-base": (100, 4),
    "math-instruct": (50, 1),
    "mbpp-base": (25, 8),
    "mbpp-instruct": (10, 8),
    "mmlu-base": (100, 2),
    "mmlu-instruct": (100, 8),
    "mmlu-pro-base": (25, 2),
    "mmlu-pro-instruct": (5, 1),
}
_DKV = {
    "decode": "dkv-decode:refresh=8",
    "greedy": "dkv-greedy:refresh=2,window=0",
    "greedy-window": "dkv-greedy:refresh=2,window=4",
    "greedy-window-mbpp": "dkv-greedy:refresh=2,window=2",
    "dream-decode": "dkv-decode:refresh=4,shift=un",
    "dream-pd": "dkv-pd:refresh=4,shift=un",
    "dream-prefill": "dkv-prefill",
}


def _dllm(prefix: str, scripts: Mapping[str, tuple[int, int]]) -> dict[str, str]:
    return {f"dllm/{prefix}{name}": f"dllm-cache:kp={kp},kr={kr},rho=0.25" for name, (kp, kr) in scripts.items()}


PRESETS: Mapping[str, str] = MappingProxyType(
    {**{f"dkv/{name}": spec for name, spec in _DKV.items()}, **_dllm("", _LLADA), **_dllm("dream-", _DREAM)}
)
"""Name to spec."""
