"""The published names of a network's tensors: one table for each architecture, used to read and to write.

Here stands what the tables share: the shape of each tensor, and which of them the network keeps fused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from dkv.checkpoints.safetensors_header import Shape
from dkv.checkpoints.weights import Weights, check_room
from dkv.core.model import ModelConfig
from dkv.distributed.group import Team
from dkv.distributed.shard import Cut
from dkv.errors import UnsupportedModelError
from dkv.layers.cpu_linear import laid_out, laid_out_gates, plain
from dkv.layers.quantized import PACKED, pack, packed_bytes
from dkv.layers.rotary import Rotary, paired, unpaired
from dkv.layers.tensor_parallel import DIMENSIONS, ShardedBlock, ShardedTransformer, share_of
from dkv.layers.transformer import Transformer, TransformerBlock

__all__ = ["Names", "can_overflow", "kept"]

_ORDINARY = 1e3
"""Published weights of blocks are smaller than this by far."""


@dataclass(frozen=True)
class Names:
    """What an architecture calls the tensors of a LLaMA-shaped network.

    block: what the names of a layer begin with, {} being its number; the names after it are the rest. Biases are of
    q, k and v, or None. The head has no name of its own where it is tied to the embedding.
    """

    embedding: str
    final_norm: str
    head: str
    block: str
    attn_norm: str
    mlp_norm: str
    q: str
    k: str
    v: str
    out: str
    gate: str
    up: str
    down: str
    biases: tuple[str, str, str] | None = None

    def shapes(self, c: ModelConfig) -> Iterator[tuple[str, Shape]]:
        """Every tensor of a checkpoint by name, with its shape; lazily, since a damaged config may ask for billions."""
        for parts in self._outer(c).values():
            yield from parts.items()
        for layer in range(c.layers):
            for parts in self._layer(c, layer).values():
                yield from parts.items()

    def parameters(self, c: ModelConfig) -> int:
        """How many numbers a checkpoint has."""
        return self.nbytes(c, 1)

    def nbytes(self, c: ModelConfig, itemsize: int, quantize: str | None = None) -> int:
        """Bytes of a loaded network, plain numbers of `itemsize` bytes; quantize: as `build` takes it."""

        def count(fields: dict[str, dict[str, Shape]]) -> int:
            kinds = {field: quantize if field in PACKED else None for field in fields}
            return sum(
                packed_bytes(kinds[field], s, itemsize) for field, parts in fields.items() for s in parts.values()
            )

        return count(self._outer(c)) + c.layers * count(self._layer(c, 0))

    def build(
        self,
        c: ModelConfig,
        weights: Weights,
        team: Team | None = None,
        quantize: str | None = None,
        arrange: bool = True,
    ) -> Transformer:
        """Read the network, or this rank's share of it; quantize: as what to pack the blocks' weights, one by one;
        arrange: whether to lay out the others as the device's kernels have them.

        Raises CheckpointError for a missing or misshapen tensor, SettingError where the heads cannot be shared out,
        or a weight cannot be packed.
        """
        own = c if team is None else share_of(c, team)
        self.check(c, weights)
        check_room(
            self.nbytes(c, weights.dtype.itemsize, quantize) // (1 if team is None else team.ranks), weights.device
        )
        cuts = {} if team is None else {name: Cut(dim, team.rank, team.ranks) for name, dim in DIMENSIONS.items()}

        bounds = list[Tensor]()

        def read_one(field: str, parts: dict[str, Shape]) -> Any:
            fused = weights.fuse(parts, cuts.get(field))
            bounds.append(torch.linalg.vector_norm(fused, torch.inf))
            return kept(field, paired(fused, c.head_dim) if field in _TURNED else fused, quantize, arrange)

        def read(fields: dict[str, dict[str, Shape]]) -> dict[str, Any]:
            return {field: read_one(field, parts) for field, parts in fields.items()}

        outer = read(self._outer(c))
        bounds.clear()  # attention sees neither the embedding nor the head
        block: Callable[..., TransformerBlock] = TransformerBlock if team is None else partial(ShardedBlock, team=team)
        network: Callable[..., Transformer] = Transformer if team is None else partial(ShardedTransformer, team=team)
        blocks = [block(config=own, **read(self._layer(c, layer))) for layer in range(c.layers)]
        guarded = weights.device.type == "cpu" and can_overflow(bounds, weights.dtype)
        return network(
            config=c,
            embedding=outer["embedding"],
            blocks=tuple(replace(one, guarded=guarded) for one in blocks),
            final_norm=outer["final_norm"],
            head_weight=outer["embedding" if c.tied else "head_weight"],
            rotary=Rotary(c, weights.device),
            quantize=quantize,
        )

    def check(self, c: ModelConfig, weights: Weights) -> None:
        """The weights are those of the model that the config describes, no more and no less.

        Raises CheckpointError, and UnsupportedModelError for tensors that the model does not have.
        """
        weights.check_all(self.shapes(c), spare=(self.head,) if c.tied else ())
        if c.tied and self.head in weights.stored and not weights.same(self.embedding, self.head):
            raise UnsupportedModelError(
                f"config.json ties the head to the embedding, but {self.head!r} is stored and differs from it; "
                "set weight_tying or tie_word_embeddings to false if that head is the model's"
            )

    def tensors(self, model: Transformer) -> Iterator[tuple[str, Tensor]]:
        """The network's tensors under their published names and in their order, fused ones apart again: views where
        they are kept as published."""
        c = model.config
        for field, parts in self._outer(c).items():
            yield from _split(plain(getattr(model, field)), parts)
        for layer, block in enumerate(model.blocks):
            for field, parts in self._layer(c, layer).items():
                fused = plain(getattr(block, field))
                yield from _split(unpaired(fused, c.head_dim) if field in _TURNED else fused, parts)

    def _outer(self, c: ModelConfig) -> dict[str, dict[str, Shape]]:
        """Names and shapes of the parts of each field of a Transformer."""
        fields: dict[str, dict[str, Shape]] = {
            "embedding": {self.embedding: (c.vocab, c.width)},
            "final_norm": {self.final_norm: (c.width,)},
        }
        return fields if c.tied else {**fields, "head_weight": {self.head: (c.vocab, c.width)}}

    def _layer(self, c: ModelConfig, layer: int) -> dict[str, dict[str, Shape]]:
        """Names and shapes of the parts of each field of a Block, in the order in which they are stacked."""
        queries, keys, at = c.heads * c.head_dim, c.kv_heads * c.head_dim, self.block.format(layer)
        fields: dict[str, dict[str, Shape]] = {
            "attn_norm": {self.attn_norm: (c.width,)},
            "mlp_norm": {self.mlp_norm: (c.width,)},
            "qk_weight": {self.q: (queries, c.width), self.k: (keys, c.width)},
            "v_weight": {self.v: (keys, c.width)},
            "out_weight": {self.out: (c.width, queries)},
            "gate_up_weight": {self.gate: (c.mlp_width, c.width), self.up: (c.mlp_width, c.width)},
            "down_weight": {self.down: (c.width, c.mlp_width)},
        }
        if self.biases is not None:
            q, k, v = self.biases
            fields |= {"qk_bias": {q: (queries,), k: (keys,)}, "v_bias": {v: (keys,)}}
        return {field: {at + name: shape for name, shape in parts.items()} for field, parts in fields.items()}


_MULTIPLIED = ("head_weight", "qk_weight", "v_weight", "out_weight", "gate_up_weight", "down_weight")
"""Fields that rows are multiplied by, and nothing else reads."""

_TURNED = ("qk_weight", "qk_bias")
"""Fields whose channels lie in pairs here and half a head apart in a checkpoint."""


def kept(field: str, weight: Tensor, quantize: str | None, arrange: bool) -> Any:
    """A field's weight as a network holds it: packed, laid out, or as it is; arguments as `Names.build` takes them.
    Raises SettingError where it cannot be packed."""
    if quantize is not None and field in PACKED:
        return pack(quantize, weight)
    if not arrange or field not in _MULTIPLIED:
        return weight
    return laid_out_gates(weight) if field == "gate_up_weight" else laid_out(weight)


def _split(fused: Tensor, parts: dict[str, Shape]) -> Iterator[tuple[str, Tensor]]:
    return zip(parts, torch.split(fused, [shape[0] for shape in parts.values()]), strict=True)


def can_overflow(bounds: Iterable[Tensor], dtype: torch.dtype) -> bool:
    """Whether a forward could leave the range of its dtype, or starts from weights that are not finite. bounds: the
    largest magnitude in each weight of the blocks, NaN where one is NaN.

    In float32 and bfloat16 it cannot with weights of ordinary size: normed rows, products of 10**5 channels with such
    weights, and their products in attention stay below 10**36. float16 ends at 65,504.
    """
    return dtype == torch.float16 or not all(float(bound) <= _ORDINARY for bound in bounds)
