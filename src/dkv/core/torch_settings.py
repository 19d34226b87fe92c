"""Settings of torch that a caller has changed around a call, and that must not change what dkv computes.

Autocast, the default dtype and the default device are for code that leaves them open; the engine chooses its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch

__all__ = ["shielded"]


@contextmanager
def shielded() -> Iterator[None]:
    """Inside, autocast is off, the default dtype float32 and the default device the CPU; afterwards all is as it was.
    Costs next to nothing where nothing was changed."""
    dtype = torch.get_default_dtype()
    with ExitStack() as stack:
        for device in ("cpu", "cuda"):
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        if dtype != torch.float32:
            torch.set_default_dtype(torch.float32)
            stack.callback(torch.set_default_dtype, dtype)
        yield
