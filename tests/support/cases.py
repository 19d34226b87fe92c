"""Random configurations of the published programs, seeded, and their replay by the oracles.

They vary what the recorded traces hold still: lengths, blocks, uneven and idle steps, several tokens a step, filters,
ragged batches, guidance, both versions of dLLM-Cache. Nothing is said of the engine here; a test translates.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from functools import cache
from typing import Any

from torch import Tensor

from tests.support.checkpoints import MASK, config_of, dream_config_of, dream_tensors_of, tensors_of
from tests.support.choosing import RULES
from tests.support.dllm_oracle import Dllm, DllmOracle, DllmTrace
from tests.support.dream_oracle import CACHES, SHIFTS, DreamOracle
from tests.support.network import dream_network, llada_network
from tests.support.oracle import Trace

__all__ = ["FAMILIES", "MODELS", "model_of", "random_case", "replay_dllm", "replay_dream", "settled"]

FAMILIES = ("dream-dkv", "llada-dllm", "dream-dllm")

_WEIGHTS = 23
"""The seed of every model's weights."""

_LLADA = {"d_model": 16, "n_heads": 2, "n_kv_heads": 2, "mlp_hidden_size": 24, "n_layers": 3}
_DREAM = {"hidden_size": 16, "num_attention_heads": 4, "intermediate_size": 24, "num_hidden_layers": 3}
MODELS: dict[str, dict[str, Any]] = {
    "llada": config_of(**_LLADA),
    "llada-tied": config_of(**{**_LLADA, "n_heads": 4, "n_kv_heads": 4}, rope_theta=500.0, weight_tying=True),
    "dream": dream_config_of(**_DREAM, num_key_value_heads=2),
    "dream-tied": dream_config_of(**_DREAM, num_key_value_heads=1, rope_theta=500.0, tie_word_embeddings=True),
    # The published dLLM-Cache can only do seven heads to a group.
    "dream-seven": dream_config_of(**{**_DREAM, "hidden_size": 28, "num_attention_heads": 7}, num_key_value_heads=1),
}


def random_case(family: str, seed: int) -> dict[str, Any]:
    """Plain settings: `model` (a key of MODELS), `prompts`, `gen`, `steps` and what the family adds.

    dream-dkv: rule, top_p, top_k, cache, refresh, shift. llada-dllm: block_length, cfg_scale, dllm. dream-dllm: rule,
    top_p, top_k, dllm. `dllm` is None for no cache, else the arguments of `Dllm`.
    """
    rng = random.Random(f"{family}/{seed}")
    case: dict[str, Any] = {"family": family, "seed": seed}
    if family == "llada-dllm":
        case |= {"model": rng.choice(["llada", "llada-tied"]), **_blocks(rng)}
    else:
        case |= {"model": rng.choice(["dream", "dream-tied", "dream-seven"]), **_dream(rng)}
    case["prompts"] = _prompts(rng)
    if family == "dream-dkv":
        case |= {"cache": rng.choice(CACHES), "refresh": rng.choice([1, 2, 3, 4, 5, 100]), "shift": rng.choice(SHIFTS)}
    elif family == "llada-dllm":
        case["cfg_scale"] = rng.choice([0.0, 0.0, 0.5, 1.5, 3.0])
        case["dllm"] = _dllm(rng, case["gen"], case["steps"])
    elif family == "dream-dllm":
        case["dllm"] = _dllm(rng, case["gen"], case["steps"])
    else:
        raise ValueError(family)
    return case


def _prompts(rng: random.Random) -> list[list[int]]:
    """One to three, of one length or ragged, without special tokens."""
    batch, length, ragged = rng.choice([1, 1, 2, 3]), rng.randrange(1, 10), rng.random() < 0.5
    sizes = [rng.randrange(1, 10) if ragged else length for _ in range(batch)]
    return [[rng.randrange(MASK - 5) for _ in range(size)] for size in sizes]


def _blocks(rng: random.Random) -> dict[str, Any]:
    block_length, blocks = rng.choice([1, 2, 3, 4, 5, 8, 12]), rng.choice([1, 1, 2, 3])
    per_block = rng.choice([1, 2, 3, block_length, block_length, block_length, block_length + 3])
    return {"gen": block_length * blocks, "block_length": block_length, "steps": per_block * blocks}


def _dream(rng: random.Random) -> dict[str, Any]:
    gen = rng.choice([1, 2, 3, 5, 8, 12, 16, 17])
    steps = rng.choice([gen, gen, gen, max(1, gen // 2), max(1, gen - 1), gen + 3, 2 * gen, 1, 2, 3])
    return {
        "gen": gen,
        "steps": steps,
        "rule": rng.choice(RULES),
        "top_p": rng.choice([None, None, None, 0.6, 0.9, 0.95, 1.0]),
        "top_k": rng.choice([None, None, None, 5, 20, 50, 1000]),
    }


def _dllm(rng: random.Random, gen: int, steps: int) -> dict[str, Any] | None:
    if rng.random() < 0.1:
        return None
    first = rng.random() < 0.7
    # Where layer 0 chooses too, all rows but the newly decoded tie there: choose no more than those.
    few = [0.0, 0.0, 1.0, min(1.0, max(1, gen // steps) / gen)]
    return {
        "kp": rng.choice([1, 2, 3, 5, 8, 10, 100, -1]),
        "kr": rng.choice([1, 2, 3, 4, 7, 100, -1]),
        "rho": rng.choice([0.0, 0.1, 0.25, 0.25, 0.29, 0.5, 0.75, 1.0, 1.5] if first else few),
        "cfg_interval": rng.choice([1, 1, 2, 3, 4, 7]),
        "first_layer_full": first,
    }


@cache
def _model(name: str) -> tuple[Mapping[str, Any], Mapping[str, Tensor]]:
    config = MODELS[name]
    return config, (tensors_of if name.startswith("llada") else dream_tensors_of)(config, _WEIGHTS)


def model_of(case: Mapping[str, Any]) -> tuple[Mapping[str, Any], Mapping[str, Tensor]]:
    """The config.json and the weights of a case, to build an oracle or to write a checkpoint."""
    return _model(case["model"])


def replay_dream(case: Mapping[str, Any]) -> list[Trace]:
    """Every row of a dream-dkv case alone."""
    oracle = DreamOracle(*model_of(case))
    options = {name: case[name] for name in ("rule", "cache", "refresh", "shift", "top_p", "top_k")}
    return [oracle.run(prompt, case["gen"], case["steps"], **options) for prompt in case["prompts"]]


def replay_dllm(case: Mapping[str, Any], **changes: Any) -> list[DllmTrace]:
    """Every row of a llada-dllm or dream-dllm case alone; `changes` to the settings of the cache, such as a jitter."""
    config, tensors = model_of(case)
    settings = None if case["dllm"] is None else Dllm(**{**case["dllm"], **changes})
    if case["family"] == "llada-dllm":
        llada = DllmOracle(llada_network(config, tensors))
        shape = case["gen"], case["block_length"], case["steps"]
        return [llada.llada(prompt, *shape, settings, case["cfg_scale"]) for prompt in case["prompts"]]
    dream = DllmOracle(dream_network(config, tensors))
    options = {name: case[name] for name in ("rule", "top_p", "top_k")}
    return [dream.dream(prompt, case["gen"], case["steps"], settings, **options) for prompt in case["prompts"]]


def settled(case: Mapping[str, Any], margin: float = 1e-5, jitter: float = 2e-6) -> bool:
    """Whether float32 has to come to the same tokens: no choice hangs on less than `margin`, no token is the mask's
    by right, and ties between rows to recompute, broken at random, change nothing that is read.

    Such ties need not matter: at a step that repeats the one before, what is recomputed is what was stored.
    """
    if case["family"] == "dream-dkv":
        return all(trace.margin >= margin and not trace.mask_won for trace in replay_dream(case))
    traces = replay_dllm(case)
    if any(trace.margin < margin or trace.mask_won for trace in traces):
        return False
    if min(trace.tie for trace in traces) > 100 * jitter:
        return True
    shaken = (replay_dllm(case, jitter=jitter, jitter_seed=seed) for seed in (1, 2, 3))
    return all(_alike(*pair) for others in shaken for pair in zip(traces, others, strict=True))


def _alike(trace: DllmTrace, other: DllmTrace) -> bool:
    """Whether the same tokens come from logits that differ by no more than float32 would make them."""
    pairs = zip(trace.steps, other.steps, strict=True)
    furthest = max(float((a.forward.read - b.forward.read).abs().max()) for a, b in pairs)
    return trace.tokens == other.tokens and furthest < 1e-4
