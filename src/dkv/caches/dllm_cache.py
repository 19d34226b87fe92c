"""dLLM-Cache: the prompt's features for long, the response's for short, and between refreshes only the response tokens
whose value vectors drifted most (Liu et al., arXiv 2506.06295; its published program).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from dkv.core.layer_rules import Rules
from dkv.core.policy import Plan, Step
from dkv.core.values import is_number, shown
from dkv.errors import SpecError
from dkv.layers.v_verify import Verify

__all__ = ["DllmCache"]

_SIMILARITIES = ("cosine", "l2")
_ALWAYS = -1
"""How the published scripts spell an interval of 1: every number is a multiple of it."""
_GUIDED = 5
"""Steps at the start of a sequence at which the published program always runs the guide."""


@dataclass(frozen=True)
class DllmCache:
    """dLLM-Cache. Recomputes the prompt every `kp` steps and the response every `kr` steps; in between, each layer
    recomputes the share `rho` of the response whose value vectors changed most.

    rows = the response, and the prompt every `kp`-th forward; above layer 0 each layer recomputes the whole response
    every `kr`-th forward, else the share `rho` of it, by drift of V. Forwards are counted over the whole sequence,
    whatever its blocks. rho outside (0, 1] recomputes nothing between refreshes; int(gen_length * rho) may be 0, and
    then only values are renewed. cfg_interval: with guidance, the guide runs at its multiples and the first 5 steps. An
    interval of -1 is one of 1. first_layer: compute layer 0 of every carried row (the program since July 2025; false:
    as first published). similarity: "cosine" or "l2".

    With a shift the last prompt row predicts the response's first token: it is carried always, but above layer 0 only
    recomputed with the prompt.
    """

    name: ClassVar[str] = "dllm-cache"
    kp: int = 50
    kr: int = 7
    rho: float = 0.25
    cfg_interval: int = 1
    first_layer: bool = True
    similarity: str = "cosine"

    def __post_init__(self) -> None:
        for key in ("kp", "kr", "cfg_interval"):
            value = getattr(self, key)
            if type(value) is not int or not (value == _ALWAYS or 1 <= value < 1 << 31):
                raise SpecError(
                    f"cache='dllm-cache': {key}={shown(value)} must be a whole number of at least 1 (or -1)"
                )
        if not (is_number(self.rho) and -1e6 <= self.rho <= 1e6):
            raise SpecError(f"cache='dllm-cache': rho={shown(self.rho)} must be a share such as 0.25")
        if self.similarity not in _SIMILARITIES:
            known = ", ".join(_SIMILARITIES)
            raise SpecError(f"cache='dllm-cache': similarity={shown(self.similarity)} is unknown; known: {known}")

    @property
    def adaptive(self) -> bool:
        """Whether anything is recomputed between refreshes."""
        return 0 < self.rho <= 1

    @property
    def rules(self) -> Rules:
        """V-verify in every layer but, with first_layer, the first."""
        verify = Verify(self.similarity, self.adaptive)
        return Rules(None if self.first_layer else verify, verify)

    def plan(self, step: Step) -> Plan:
        """Carry the response and what is due; say what each layer must recompute."""
        canvas = step.canvas
        prompt = canvas.live & ~canvas.response
        prompt_due, response_due = (
            (step.num_forwards % self.kp == 0)[:, None],
            (step.num_forwards % self.kr == 0)[:, None],
        )
        forced = (prompt & prompt_due) | (canvas.response & response_due)
        last = prompt & (canvas.position == canvas.prompt[:, None] - 1) if step.shift else None
        rows = canvas.response | forced
        budget = (canvas.response.sum(1).double() * self.rho).long()
        return Plan(
            rows if last is None else rows | last,
            skip_unconditional=self._rest(step),
            rules=self.rules,
            forced=forced,
            frozen=None if last is None else last & ~forced,
            budget=budget * ~response_due[:, 0] if self.adaptive else None,
        )

    def _rest(self, step: Step) -> Tensor | None:
        """[B] the guides that skip this step; None where none ever does."""
        guide = step.canvas.unconditional_of
        if guide is None or self.cfg_interval == 1:
            return None
        clock = step.num_forwards[guide.clamp(min=0)]
        return (guide >= 0) & (clock % self.cfg_interval != 0) & (clock >= _GUIDED)
