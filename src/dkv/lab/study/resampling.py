"""How far a figure over a few prompts can be trusted: the bootstrap over prompts, at 95%.

Source: B. Efron, The Annals of Statistics 7 (1979) 1-26; the percentile interval.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["Interval", "bootstrap"]

_DRAWS = 2000

Interval = tuple[float, float, float]
"""The figure itself, and the lower and upper end of its interval."""


def bootstrap(values: Tensor, statistic: Callable[[Tensor], Tensor]) -> Interval:
    """statistic: of prompts' values [D, N, ...] to [D], on D samples at once; values [N, ...]: one entry a prompt.

    Seeded, so that one file always gives one verdict. With one prompt the interval is everything: (value, -inf, inf).
    """
    count = len(values)
    value = float(statistic(values[None])[0])
    if count < 2:
        return value, -torch.inf, torch.inf
    draw = torch.Generator().manual_seed(0)
    samples = statistic(values[torch.randint(count, (_DRAWS, count), generator=draw)])
    low, high = samples.double().nanquantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return value, low, high
