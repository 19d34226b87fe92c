"""Random request bodies."""

from __future__ import annotations

import random
from typing import Any

CACHES = ("none", "dkv-decode", "dkv-greedy", "dkv-pd", "dllm-cache", "fast-dual")


def random_body(noise: random.Random) -> dict[str, Any]:
    """Some settings of every kind; max_tokens need not be a multiple of the block's length."""
    block = noise.choice([None, 4, 8, 16])
    extra = {
        "cache": noise.choice(CACHES),
        "decoder": noise.choice([None, "random", "threshold:tau=0.8", "entropy"]),
        "block_length": block,
        "cfg_scale": noise.choice([None, None, 0.5]),
    }
    return {
        "max_tokens": noise.randint(1, 32),
        "temperature": noise.choice([0.0, 0.7, 1.5]),
        "top_p": noise.choice([None, 0.9]),
        "seed": noise.randint(0, 1 << 40),
        "stop": noise.choice([None, ["\n"], ["1", "pens"]]),
        "extra_body": {key: value for key, value in extra.items() if value is not None},
    }
