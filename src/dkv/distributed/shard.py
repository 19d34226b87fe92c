"""What share of a tensor a rank holds: one run of rows or columns, as `torch.chunk` and DTensor's `Shard` cut them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

__all__ = ["Cut"]


@dataclass(frozen=True)
class Cut:
    """Rank `rank`'s share of `ranks` along dimension `dim`: as many each, the last ones perhaps fewer."""

    dim: int
    rank: int
    ranks: int

    def span(self, size: int) -> tuple[int, int]:
        """First index and number of those that are held, of `size`."""
        most = -(-size // self.ranks)
        first = min(size, self.rank * most)
        return first, min(size, first + most) - first

    def shape(self, whole: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of the share of a tensor."""
        return *whole[: self.dim], self.span(whole[self.dim])[1], *whole[self.dim + 1 :]

    def of(self, whole: Tensor) -> Tensor:
        """The share of a tensor: a view."""
        return whole.narrow(self.dim, *self.span(whole.shape[self.dim]))
