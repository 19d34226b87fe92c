"""One model over several processes, each with its share of every layer (tensor parallelism).

`team` is who they are and what they say to each other, `cut` what share of a tensor each holds, `launch` starts them on
this machine, and `lockstep` lets the first of them lead an engine that the others replay. The network itself is
`dkv.layers.tensor_parallel`.
"""

from __future__ import annotations

__all__: list[str] = []
