"""Which studies there are: each is imported when it is asked for."""

from __future__ import annotations

from importlib import import_module

from dkv.errors import SettingError
from dkv.study.base import Study

__all__ = ["STUDIES", "named", "study_of"]

STUDIES: dict[str, str] = {
    "variants": "dkv.study.variants:Variants",
    "delay": "dkv.study.delay:Delay",
    "refresh": "dkv.study.refresh:Refresh",
    "window": "dkv.study.window:Window",
    "order": "dkv.study.order:Order",
    "rho": "dkv.study.rho:Rho",
    "kp": "dkv.study.kp:PromptInterval",
    "kr": "dkv.study.kr:ResponseInterval",
    "similarity": "dkv.study.similarity:Similarity",
    "components": "dkv.study.components:Components",
    "scale": "dkv.study.scale:Scale",
    "diversity": "dkv.study.diversity:Diversity",
    "vverify": "dkv.study.vverify:VVerify",
    "dynamics": "dkv.study.dynamics:Dynamics",
    "flops": "dkv.study.flops:Flops",
    "length": "dkv.study.length:Length",
    "length-params": "dkv.study.length_params:LengthParams",
    "memory": "dkv.study.memory_compute:MemoryCompute",
    "long-prompts": "dkv.study.long_prompts:LongPrompts",
    "fill": "dkv.study.fill:Fill",
    "parallel": "dkv.study.parallel:Parallel",
}
"""By name, in the order in which `all` runs them: module and class."""


def study_of(name: str) -> Study:
    """A study by name. Raises SettingError."""
    if name not in STUDIES:
        raise SettingError(f"study={name!r} is unknown; known: all, {', '.join(STUDIES)}")
    module, _, kind = STUDIES[name].partition(":")
    study: Study = getattr(import_module(module), kind)()
    return study


def named(names: list[str]) -> list[Study]:
    """The studies of some names, each once; `all` stands for all. Raises SettingError."""
    expanded = [found for name in names for found in (STUDIES if name == "all" else (name,))]
    return [study_of(name) for name in dict.fromkeys(expanded)]
