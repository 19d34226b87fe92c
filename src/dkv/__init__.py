"""dkv: the inference engine for diffusion language models, with every cache behind one interface.

    import dkv
    lm = dkv.load("tiny")
    print(lm.generate("...", cache="dkv-decode")[0].text)

torch is imported when the first name that needs it is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from dkv.errors import (
    AuditError,
    CheckpointError,
    DkvError,
    HubError,
    PromptError,
    RankError,
    SettingError,
    SpecError,
    UnsupportedModelError,
)

if TYPE_CHECKING:
    from dkv import caches, decoders
    from dkv.generation import Frame, Generation, Stats
    from dkv.lm import DiffusionLM, load
    from dkv.plan import CachePolicy, Decoder, Plan, Step

__all__ = [
    "AuditError",
    "CachePolicy",
    "CheckpointError",
    "Decoder",
    "DiffusionLM",
    "DkvError",
    "Frame",
    "Generation",
    "HubError",
    "Plan",
    "PromptError",
    "RankError",
    "SettingError",
    "SpecError",
    "Stats",
    "Step",
    "UnsupportedModelError",
    "caches",
    "decoders",
    "load",
]

_HOME = {
    "CachePolicy": "dkv.plan",
    "Decoder": "dkv.plan",
    "DiffusionLM": "dkv.lm",
    "Frame": "dkv.generation",
    "Generation": "dkv.generation",
    "Plan": "dkv.plan",
    "Stats": "dkv.generation",
    "Step": "dkv.plan",
    "load": "dkv.lm",
}


def __getattr__(name: str) -> Any:
    if name in ("caches", "decoders"):
        return importlib.import_module(f"dkv.{name}")
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'dkv' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
