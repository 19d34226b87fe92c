"""Which studies there are: each is imported when it is asked for."""

from __future__ import annotations

from importlib import import_module

from dkv.errors import SettingError
from dkv.lab.study.base import Study

__all__ = ["STUDIES", "named", "study_of"]

STUDIES: dict[str, str] = {
    "variants": "dkv.lab.study.published_variants:Variants",
    "delay": "dkv.lab.study.delay:Delay",
    "refresh": "dkv.lab.study.refresh:Refresh",
    "window": "dkv.lab.study.window:Window",
    "order": "dkv.lab.study.order:Order",
    "rho": "dkv.lab.study.rho:Rho",
    "kp": "dkv.lab.study.kp:PromptInterval",
    "kr": "dkv.lab.study.kr:ResponseInterval",
    "similarity": "dkv.lab.study.similarity:Similarity",
    "components": "dkv.lab.study.components:Components",
    "scale": "dkv.lab.study.scale:Scale",
    "diversity": "dkv.lab.study.diversity:Diversity",
    "vverify": "dkv.lab.study.vverify:VVerify",
    "dynamics": "dkv.lab.study.dynamics:Dynamics",
    "flops": "dkv.lab.study.published_flops:Flops",
    "length": "dkv.lab.study.length:LengthStudy",
    "length-params": "dkv.lab.study.length_params:LengthParams",
    "memory": "dkv.lab.study.memory_compute:MemoryCompute",
    "long-prompts": "dkv.lab.study.long_prompts:LongPrompts",
    "fill": "dkv.lab.study.fill_rows:FillRows",
    "parallel": "dkv.lab.study.parallel:Parallel",
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
