"""A driver of the loop: a State from plain arguments, its ticks, and models that report or script what they do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from dkv.caches import make_cache
from dkv.core.canvas import SequenceState, lay_out
from dkv.core.guidance import Guidance
from dkv.core.kv_cache import KVCache
from dkv.core.layer_rules import Rules
from dkv.core.loop import Schedule, State, StepOutput, advance
from dkv.core.model import Model, ModelConfig
from dkv.core.packing import Bucket, PackedRows, exact
from dkv.core.policy import CachePolicy, Decoder, Plan, Step
from dkv.core.sampling import Sampling
from dkv.decoders import make_decoder

__all__ = ["POLICIES", "Recorder", "Scripted", "Watched", "play", "positions", "start", "start_and_play"]

DEGENERATE = [
    ("dkv-decode:refresh=1", "none"),
    ("dkv-greedy:refresh=1", "none"),
    ("dkv-prefill:refresh=1", "none"),
    ("dkv-pd:refresh=1", "dkv-prefill"),
    ("dllm-cache:kp=1,kr=1", "none"),
]
"""Settings with which a cache computes what another one does."""

POLICIES = (
    "none",
    "dkv-decode:refresh=4",
    "dkv-decode:refresh=3,delay=0,warmup=1",
    "dkv-decode:refresh=5,delay=2",
    "dkv-greedy:refresh=3,window=2",
    "dkv-prefill",
    "dkv-prefill:refresh=3",
    "dkv-pd:refresh=3",
    "dllm-cache:kp=5,kr=3,rho=0.4",
    "dllm-cache:kp=4,kr=2,rho=0",
    "dllm-cache:kp=3,kr=100,rho=0.3,first_layer=false,similarity=l2",
    "fast-prefix",
    "fast-dual",
    "dkv-fill:rows=5",
    "dkv-fill:rows=4,choose=near",
    "dpad:window=4,sigma=1",
)
"""Every policy, at settings under which it really caches in a short run."""


def start(
    model: Model,
    prompts: Sequence[Sequence[int]],
    gen_length: int,
    block_length: int | None = None,
    steps: int | None = None,
    *,
    cache: str | CachePolicy = "none",
    decoder: str | Decoder = "confidence",
    temperature: float | Sequence[float] = 0.0,
    top_p: float | None = None,
    top_k: int | None = None,
    seeds: Sequence[int] | None = None,
    stop_ids: tuple[int, ...] = (),
    bucket: Bucket = exact,
    audit: bool = True,
    cfg_scale: float = 0.0,
) -> State:
    """A batch ready to advance."""
    block_length = gen_length if block_length is None else block_length
    blocks, guided = gen_length // block_length, cfg_scale > 0
    seeds = list(range(len(prompts))) if seeds is None else seeds
    canvas = lay_out(prompts, gen_length, model.config.mask_id, seeds, guided=guided)
    batch = len(canvas.tokens)
    steps_in_block = (gen_length if steps is None else steps) // blocks
    warmth = torch.tensor([temperature] * batch if isinstance(temperature, float) else temperature)

    def each(value: float | None) -> Tensor | None:
        return None if value is None else torch.full((batch,), value)

    schedule = Schedule(*(torch.full((batch,), n) for n in (block_length, blocks, steps_in_block)))
    decoder = make_decoder(decoder) if isinstance(decoder, str) else decoder
    return State(
        model=model,
        sequences=SequenceState.new(canvas, decoder.commit_order(canvas)),
        memory=model.new_kv_cache(*canvas.tokens.shape),
        policy=make_cache(cache) if isinstance(cache, str) else cache,
        decoder=decoder,
        sampling=Sampling(warmth, each(top_p), each(top_k), greedy=not bool(warmth.any())),
        schedule=schedule,
        stop_ids=stop_ids,
        bucket=bucket,
        guidance=Guidance(canvas, cfg_scale) if guided else None,
        audit=audit,
    )


def play(state: State) -> list[StepOutput]:
    """Advance to the end."""
    ticks = []
    while (tick := advance(state)) is not None:
        ticks.append(tick)
    return ticks


def start_and_play(*args: object, **options: object) -> tuple[State, list[StepOutput]]:
    """`start`, then `play`."""
    state = start(*args, **options)  # type: ignore[arg-type]
    return state, play(state)


def positions(mask: Tensor) -> list[list[int]]:
    """The set positions of each row of mask [B, T]."""
    return [row.nonzero().flatten().tolist() for row in mask]


@dataclass
class Recorder:
    """A policy that copies what another one saw and answered. (A Step shares the canvas, which moves on.)"""

    inner: CachePolicy
    rows: list[Tensor] = field(default_factory=list)
    fresh: list[Tensor] = field(default_factory=list)
    tokens: list[Tensor] = field(default_factory=list)
    masked: list[Tensor] = field(default_factory=list)
    score: list[Tensor] = field(default_factory=list)
    computed_at: list[Tensor] = field(default_factory=list)
    clock: list[Tensor] = field(default_factory=list)

    def plan(self, step: Step) -> Plan:
        plan = self.inner.plan(step)
        self.rows.append(plan.rows.clone())
        self.fresh.append(step.just_committed.clone())
        self.tokens.append(step.canvas.tokens.clone())
        self.masked.append(step.canvas.masked.clone())
        self.score.append(step.last_confidence.clone())
        self.computed_at.append(step.computed_at.clone())
        self.clock.append(step.num_forwards.clone())
        return plan


@dataclass
class Watched:
    """A model that also runs its head over every carried row, and keeps those logits with their places."""

    inner: Model
    seen: list[tuple[PackedRows, Tensor]] = field(default_factory=list)

    @property
    def config(self) -> ModelConfig:
        return self.inner.config

    @property
    def device(self) -> torch.device:
        return self.inner.device

    @property
    def dtype(self) -> torch.dtype:
        return self.inner.dtype

    def new_kv_cache(self, batch: int, width: int, dtype: torch.dtype | None = None) -> KVCache:
        return self.inner.new_kv_cache(batch, width, dtype)

    def forward(self, tokens: Tensor, at: PackedRows, memory: KVCache, rules: Rules) -> Tensor:
        hidden = self.inner.forward(tokens, at, memory, rules)
        self.seen.append((at, self.inner.logits(hidden)))
        return hidden

    def logits(self, x: Tensor) -> Tensor:
        return self.inner.logits(x)


@dataclass
class Scripted:
    """A model whose logits [T, V] depend on the position alone. Its hidden state is the position."""

    config: ModelConfig
    table: Tensor
    forwards: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    dtype: torch.dtype = torch.float32

    @classmethod
    def like(cls, model: Model, table: Tensor, **changes: object) -> Scripted:
        config = replace(model.config, vocab=table.shape[1], **changes)  # type: ignore[arg-type]
        return cls(config, table)

    def new_kv_cache(self, batch: int, width: int, dtype: torch.dtype | None = None) -> KVCache:
        return KVCache(1, batch, 1, width, 2, dtype or self.dtype)

    def forward(self, tokens: Tensor, at: PackedRows, memory: KVCache, rules: Rules) -> Tensor:
        self.forwards += 1
        return at.slot[:, None]

    def logits(self, x: Tensor) -> Tensor:
        return self.table[x[:, 0]]
