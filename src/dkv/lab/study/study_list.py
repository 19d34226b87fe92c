"""Which studies there are."""

from __future__ import annotations

from dkv.errors import SettingError
from dkv.lab.study.base import Study
from dkv.lab.study.diversity import Diversity
from dkv.lab.study.dynamics import Dynamics
from dkv.lab.study.fill_rows import FillRows
from dkv.lab.study.length import LengthStudy
from dkv.lab.study.length_params import LengthParams
from dkv.lab.study.long_prompts import LongPrompts
from dkv.lab.study.memory_compute import MemoryCompute
from dkv.lab.study.parallel import Parallel
from dkv.lab.study.published_flops import Flops
from dkv.lab.study.scale import Scale
from dkv.lab.study.sweep_table import SWEEPS
from dkv.lab.study.vverify import VVerify

__all__ = ["STUDIES", "named", "study_of"]

_OTHERS: tuple[Study, ...] = (
    Scale(), Diversity(), VVerify(), Dynamics(), Flops(), LengthStudy(), LengthParams(), MemoryCompute(),
    LongPrompts(), FillRows(), Parallel(),
)  # fmt: skip

STUDIES: dict[str, Study] = {study.name: study for study in (*SWEEPS, *_OTHERS)}
"""By name, in the order in which `all` runs them."""


def study_of(name: str) -> Study:
    """A study by name. Raises SettingError."""
    if name not in STUDIES:
        raise SettingError(f"study={name!r} is unknown; known: all, {', '.join(STUDIES)}")
    return STUDIES[name]


def named(names: list[str]) -> list[Study]:
    """The studies of some names, each once; `all` stands for all. Raises SettingError."""
    expanded = [found for name in names for found in (STUDIES if name == "all" else (name,))]
    return [study_of(name) for name in dict.fromkeys(expanded)]
