"""dkv: the inference engine for diffusion language models, with every cache behind one interface.

    import dkv
    lm = dkv.load("tiny")
    print(lm.generate("...", cache="dkv-decode")[0].text)

torch is imported when the first name that needs it is used.
"""

from __future__ import annotations

import importlib
import warnings
from typing import TYPE_CHECKING, Any

from dkv.errors import (
    AuditError,
    BusyError,
    CapacityError,
    CheckpointError,
    ContextError,
    DkvError,
    EngineError,
    HubError,
    PromptError,
    RankError,
    RequestError,
    SettingError,
    SpecError,
    UnsupportedModelError,
)

# torch says so when it is imported without numpy, which neither it nor dkv needs for anything done here.
warnings.filterwarnings("ignore", message="Failed to initialize NumPy", category=UserWarning)

if TYPE_CHECKING:
    from dkv import caches, decoders
    from dkv.core.policy import CachePolicy, Decoder, Plan, Step
    from dkv.engine import Engine, Request, Service, Status, Update
    from dkv.engine.infill import Infilling
    from dkv.lm import DiffusionLM
    from dkv.loading import load
    from dkv.outputs import Frame, Generation, Stats
    from dkv.params import SamplingParams

__all__ = [
    "AuditError",
    "BusyError",
    "CachePolicy",
    "CapacityError",
    "CheckpointError",
    "ContextError",
    "Decoder",
    "DiffusionLM",
    "DkvError",
    "Engine",
    "EngineError",
    "Frame",
    "Generation",
    "HubError",
    "Infilling",
    "Plan",
    "PromptError",
    "RankError",
    "Request",
    "RequestError",
    "SamplingParams",
    "Service",
    "SettingError",
    "SpecError",
    "Stats",
    "Status",
    "Step",
    "UnsupportedModelError",
    "Update",
    "caches",
    "decoders",
    "load",
]

_HOME = {
    "CachePolicy": "dkv.core.policy",
    "Decoder": "dkv.core.policy",
    "DiffusionLM": "dkv.lm",
    "Engine": "dkv.engine",
    "Frame": "dkv.outputs",
    "Generation": "dkv.outputs",
    "Infilling": "dkv.engine.infill",
    "Plan": "dkv.core.policy",
    "Request": "dkv.engine",
    "SamplingParams": "dkv.params",
    "Service": "dkv.engine",
    "Stats": "dkv.outputs",
    "Status": "dkv.engine",
    "Step": "dkv.core.policy",
    "Update": "dkv.engine",
    "load": "dkv.loading",
}


def __getattr__(name: str) -> Any:
    if name in ("caches", "decoders"):
        return importlib.import_module(f"dkv.{name}")
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'dkv' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
