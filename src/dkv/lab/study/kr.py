"""How often must dllm-cache renew the whole response?"""

from __future__ import annotations

from typing import ClassVar

from dkv.lab.study.renewal import Renewal

__all__ = ["ResponseInterval"]


class ResponseInterval(Renewal):
    """kr 7 against kr 1, by the rule of `Renewal`."""

    name: ClassVar[str] = "kr"
    claim: ClassVar[str] = (
        "The response needs to be renewed only every few steps, given V-verify in between (dLLM-Cache, arXiv "
        "2506.06295: kr from 4 to 8 in most published LLaDA settings; LLaDA-Instruct, GSM8K: kr 7)."
    )
    key: ClassVar[str] = "kr"
    published: ClassVar[int] = 7
    intervals: ClassVar[tuple[int, ...]] = (1, 2, 4, 7, 10, 20)
    some: ClassVar[tuple[int, ...]] = (1, 4, 7, 20)
    title: ClassVar[str] = "dllm-cache: how often the response is renewed"
    others: ClassVar[str] = "kp 50, rho 0.25"
