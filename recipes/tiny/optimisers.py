"""Muon for the hidden matrices (Jordan et al. 2024: momentum, orthogonalised by Newton-Schulz), AdamW for the rest.

Matrices of one shape are stacked, so that a step is a few batched products instead of hundreds of small ones.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

MOMENTUM = 0.95
COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def orthogonalise(matrices: Tensor, rounds: int = 5) -> Tensor:
    """Roughly the nearest orthogonal matrices of [N, rows, columns], in bfloat16."""
    a, b, c = COEFFICIENTS
    x = matrices.bfloat16()
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(rounds):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    out: Tensor = (x.mT if tall else x).float()
    return out


class Muon:
    """Steps all given matrices; its state is one momentum stack a shape."""

    def __init__(self, matrices: list[nn.Parameter]) -> None:
        self.groups: dict[str, list[nn.Parameter]] = {}
        for matrix in matrices:
            self.groups.setdefault("x".join(map(str, matrix.shape)), []).append(matrix)
        self.momentum = {name: torch.zeros(len(g), *g[0].shape, device=g[0].device) for name, g in self.groups.items()}

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """One step at learning rate `rate`; gradients are left for the caller to clear."""
        for name, group in self.groups.items():
            gradient = torch.stack([p.grad for p in group if p.grad is not None]).float()
            momentum = self.momentum[name].lerp_(gradient, 1 - MOMENTUM)
            update = orthogonalise(gradient.lerp(momentum, MOMENTUM))
            scale = max(1.0, update.shape[1] / update.shape[2]) ** 0.5
            for parameter, change in zip(group, update, strict=True):
                parameter.add_(change, alpha=-rate * scale)

    def state(self) -> dict[str, Tensor]:
        """Tensors to save."""
        return {f"muon.{name}": stack for name, stack in self.momentum.items()}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Take saved tensors back."""
        for name, stack in self.momentum.items():
            stack.copy_(tensors[f"muon.{name}"])


class Adam:
    """AdamW without decay over named parameters, with its state in plain tensors."""

    def __init__(self, parameters: dict[str, nn.Parameter], betas: tuple[float, float] = (0.9, 0.95)) -> None:
        self.parameters, self.betas, self.count = parameters, betas, 0
        self.first = {name: torch.zeros_like(p) for name, p in parameters.items()}
        self.second = {name: torch.zeros_like(p) for name, p in parameters.items()}

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """One step at learning rate `rate`."""
        self.count += 1
        one, two = self.betas
        for name, p in self.parameters.items():
            if p.grad is None:
                continue
            first = self.first[name].lerp_(p.grad, 1 - one)
            second = self.second[name].lerp_(p.grad.square(), 1 - two)
            spread = (second / (1 - two**self.count)).sqrt_().add_(1e-8)
            p.addcdiv_(first, spread, value=-rate / (1 - one**self.count))

    def state(self) -> dict[str, Tensor]:
        """Tensors to save."""
        kept = {f"adam.first.{name}": t for name, t in self.first.items()}
        kept |= {f"adam.second.{name}": t for name, t in self.second.items()}
        return kept | {"adam.count": torch.tensor(self.count)}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Take saved tensors back."""
        for name in self.parameters:
            self.first[name].copy_(tensors[f"adam.first.{name}"])
            self.second[name].copy_(tensors[f"adam.second.{name}"])
        self.count = int(tensors["adam.count"])
