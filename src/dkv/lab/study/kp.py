"""How long may dllm-cache keep the prompt?"""

from __future__ import annotations

from typing import ClassVar

from dkv.lab.study.renewal import Renewal

__all__ = ["PromptInterval"]


class PromptInterval(Renewal):
    """kp 50 against kp 1, by the rule of `Renewal`."""

    name: ClassVar[str] = "kp"
    claim: ClassVar[str] = (
        "The prompt's features can be kept for tens of steps (dLLM-Cache, arXiv 2506.06295: kp from 25 to 100 in most "
        "published LLaDA settings, 50 in most; HotpotQA F1 34.56 to 36.10 at kp 100, kr 8)."
    )
    key: ClassVar[str] = "kp"
    published: ClassVar[int] = 50
    intervals: ClassVar[tuple[int, ...]] = (1, 10, 25, 50, 100)
    some: ClassVar[tuple[int, ...]] = (1, 10, 50)
    title: ClassVar[str] = "dllm-cache: how often the prompt is renewed"
    others: ClassVar[str] = "kr 7, rho 0.25"
