"""The feed-forward part of a block. N rows, C model width, F width of the hidden layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from dkv.core.model import ModelConfig
from dkv.distributed.group import Team
from dkv.layers.cpu_linear import Gates, gated, laid_out, laid_out_gates
from dkv.layers.parameters import Parameter
from dkv.layers.tensor_parallel import linear_summed

__all__ = ["FeedForward", "FeedForwardWeights", "SwiGLU", "SwiGLUWeights"]


class FeedForward(Protocol):
    """A feed-forward part."""

    def __call__(self, h: Tensor) -> Tensor:
        """Of normed rows h [N, C], without the residual: [N, C]."""
        ...


class FeedForwardWeights(Protocol):
    """What a checkpoint calls the weights of a kind of feed-forward part."""

    def parameters(self, c: ModelConfig) -> dict[str, Parameter]:
        """Each tensor of the part, by the name that `part` takes it under."""
        ...

    def part(self, c: ModelConfig, team: Team | None, **tensors: Any) -> FeedForward:
        """The part, or one rank's share of it (c: that rank's sizes), of what `parameters` names."""
        ...


@dataclass(frozen=True, eq=False)
class SwiGLU:
    """(silu(h gate') * (h up')) down' (Shazeer, arXiv 2002.05202)."""

    gate_up_weight: Tensor | Gates
    """[2 F, C] gate above up."""
    down_weight: Tensor
    """[C, F]."""
    gate_up_bias: Tensor | None = None
    """[2 F]."""
    down_bias: Tensor | None = None
    """[C]."""
    team: Team | None = None
    """The ranks that share F; None = it is whole."""

    def __call__(self, h: Tensor) -> Tensor:
        """Of normed rows h [N, C], without the residual: [N, C]."""
        hidden = gated(h, self.gate_up_weight, self.gate_up_bias)
        return linear_summed(hidden, self.down_weight, self.down_bias, self.team)


@dataclass(frozen=True)
class SwiGLUWeights:
    """What a checkpoint calls the weights of a SwiGLU."""

    gate: str
    up: str
    down: str
    biases: tuple[str, str, str] | None = None
    """Of gate, up and down; None = there are none."""

    def parameters(self, c: ModelConfig) -> dict[str, Parameter]:
        """Each tensor of the part."""
        hidden, width = c.mlp_width, c.width
        fields = {
            "gate_up_weight": Parameter({self.gate: (hidden, width), self.up: (hidden, width)}, 0, laid_out_gates),
            "down_weight": Parameter({self.down: (width, hidden)}, 1, laid_out),
        }
        if self.biases is not None:
            gate, up, down = self.biases
            fields["gate_up_bias"] = Parameter({gate: (hidden,), up: (hidden,)}, 0)
            fields["down_bias"] = Parameter({down: (width,)})
        return fields

    def part(self, c: ModelConfig, team: Team | None, **tensors: Any) -> SwiGLU:
        """The part of what `parameters` names."""
        return SwiGLU(**tensors, team=team)
