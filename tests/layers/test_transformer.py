"""A block of every part, and rows that see what a rule lets them see, against a plain reference in float64."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import dkv
from dkv.core.layer_rules import DENSE
from dkv.core.model import ModelConfig
from dkv.core.packing import Visibility, pack
from dkv.distributed.shard import Cut
from dkv.layers.parts import AttentionWeights, SwiGLUWeights
from dkv.models import Transformer
from dkv.models.weight_map import WeightMap, can_overflow
from tests.support.checkpoints import write_checkpoint


@dataclass
class Source:
    """Tensors by name, drawn when first asked for."""

    drawn: dict[str, Tensor]
    device: torch.device
    dtype: torch.dtype = torch.float32

    def fuse(self, parts: Mapping[str, tuple[int, ...]], cut: Cut | None = None) -> Tensor:
        draw = torch.Generator().manual_seed(len(self.drawn))
        self.drawn |= {name: torch.randn(shape, generator=draw) * shape[-1] ** -0.5 for name, shape in parts.items()}
        return torch.cat([self.drawn[name] for name in parts])


def block_causal(query: Tensor, key: Tensor) -> Tensor:
    """Rows see their own block of four positions and those before it."""
    return key // 4 <= query // 4


def full_map(config: ModelConfig) -> WeightMap:
    """Everything that parts may have."""
    return WeightMap(
        replace(config, kv_heads=2, head_dim=12, rotary_dim=8),
        embedding="embed",
        final_norm="norm",
        head="head",
        block="{}.",
        attn_norm="n1",
        attention=AttentionWeights("q", "k", "v", "o", ("qb", "kb", "vb"), "ob", ("qn", "kn")),
        mlp_norm="n2",
        feed_forward=SwiGLUWeights("g", "u", "d", ("gb", "ub", "db")),
        attn_out_norm="n3",
        mlp_out_norm="n4",
        visible=block_causal,
    )


def reference(c: ModelConfig, weights: Mapping[str, Tensor], tokens: Tensor, visible: Visibility) -> Tensor:
    """Logits [T, V], in float64."""
    w, slots = {name: tensor.double() for name, tensor in weights.items()}, torch.arange(len(tokens))
    rotated = c.rotary_dim or c.head_dim
    angle = slots[:, None] * c.rope_theta ** (-torch.arange(0, rotated, 2, dtype=torch.float64) / rotated)

    def norm(x: Tensor, name: str) -> Tensor:
        return x * (x.square().mean(-1, keepdim=True) + c.norm_eps).rsqrt() * w[name]

    def heads(x: Tensor, name: str) -> Tensor:
        x = norm(x.view(len(x), -1, c.head_dim).transpose(0, 1), name)
        low, high, rest = torch.split(x, [rotated // 2, rotated // 2, c.head_dim - rotated], dim=-1)
        turned = low * angle.cos() - high * angle.sin(), high * angle.cos() + low * angle.sin()
        return torch.cat((*turned, rest), dim=-1)

    x = w["embed"][tokens]
    for layer in range(c.layers):
        at = f"{layer}."
        h = norm(x, at + "n1")
        q, k, v = (h @ w[at + name].T + w[f"{at}{name}b"] for name in "qkv")
        q, k, v = heads(q, at + "qn"), heads(k, at + "kn"), v.view(len(x), -1, c.head_dim).transpose(0, 1)
        k, v = (one.repeat_interleave(c.heads // c.kv_heads, 0) for one in (k, v))
        scores = (q @ k.transpose(1, 2) / c.head_dim**0.5).masked_fill(~visible(slots[:, None], slots), -torch.inf)
        attended = (scores.softmax(-1) @ v).transpose(0, 1).flatten(1)
        x = x + norm(attended @ w[at + "o"].T + w[at + "ob"], at + "n3")
        h = norm(x, at + "n2")
        hidden = F.silu(h @ w[at + "g"].T + w[at + "gb"]) * (h @ w[at + "u"].T + w[at + "ub"])
        x = x + norm(hidden @ w[at + "d"].T + w[at + "db"], at + "n4")
    return norm(x, "norm") @ w["head"].T


@pytest.mark.parametrize("arrange", [True, False])
def test_every_part_and_a_rule_of_visibility_against_a_reference(model: Transformer, arrange: bool) -> None:
    """Two sequences, one of them so much longer that it attends alone; of either all rows, then the last block's."""
    names, source = full_map(model.config), Source({}, model.device)
    network, lengths, width = names.build(source, arrange=arrange), (3, 40), 40
    tokens = torch.randint(0, 250, (2, width), generator=torch.Generator().manual_seed(1))
    live = torch.arange(width) < torch.tensor(lengths)[:, None]
    expected = [
        reference(names.config, source.drawn, t[:n], block_causal) for t, n in zip(tokens, lengths, strict=True)
    ]
    with torch.inference_mode():
        memory = network.new_kv_cache(2, width)
        for rows in (live, live & (torch.arange(width) >= torch.tensor(lengths)[:, None] - 2)):
            at = pack(rows, rows.sum(1).tolist(), live[:, None, None])
            made = network.logits(network.forward(tokens[rows], at, memory, DENSE))
            wanted = torch.cat([logits[r[: len(logits)]] for logits, r in zip(expected, rows, strict=True)])
            torch.testing.assert_close(made.double(), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("compiled", [False, True])
def test_blocks_before_the_active_one_need_no_second_look_where_rows_do_not_see_ahead(
    tmp_path: Path, compiled: bool
) -> None:
    """With causal blocks, to compute only what is not final yet changes nothing; with full attention it does."""
    lm = dkv.load(write_checkpoint(tmp_path / "m"), device="cpu", dtype="float32", audit=True, compile=compiled)
    assert isinstance(lm.network, Transformer)
    tokens, width = torch.randint(0, 250, (12,), generator=torch.Generator().manual_seed(2)), 12
    other = torch.cat((tokens[:8], tokens[8:] + 1))
    seen = {}
    for rule in (None, block_causal):
        network = replace(lm.network, visible=rule)
        with torch.inference_mode():
            at = pack(torch.ones(1, width, dtype=torch.bool), [width], None)
            one, two = (network.forward(t, at, network.new_kv_cache(1, width), DENSE)[:8] for t in (tokens, other))
        seen[rule] = torch.equal(one, two)
    assert seen == {None: False, block_causal: True}


def test_queries_are_checked_only_where_they_could_leave_the_range_of_their_dtype() -> None:
    ordinary, large, broken = torch.tensor(1.0), torch.tensor(1e4), torch.tensor(torch.nan)
    assert not can_overflow([ordinary], torch.float32)
    assert not can_overflow([ordinary], torch.bfloat16)
    assert can_overflow([ordinary], torch.float16)
    for bound in (large, broken):
        assert can_overflow([ordinary, bound], torch.float32)
