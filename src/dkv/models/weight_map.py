"""Between a checkpoint's tensors and a network: which parts it is made of, under which names its weights are published.

An architecture's file says the names (`WeightMap`); here stands what all share: shapes, bytes, reading and writing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor

from dkv.checkpoints.safetensors_header import Shape
from dkv.checkpoints.weights import Weights
from dkv.core.model import ModelConfig
from dkv.core.packing import Visibility
from dkv.distributed.group import Team
from dkv.distributed.shard import Cut
from dkv.errors import UnsupportedModelError
from dkv.layers.cpu_linear import laid_out, plain
from dkv.layers.parameters import Parameter
from dkv.layers.parts import AttentionWeights, FeedForwardWeights
from dkv.layers.quantized import packed_bytes
from dkv.layers.tensor_parallel import share_of
from dkv.layers.transformer import Rotary, Transformer, TransformerBlock

__all__ = ["TensorSource", "WeightMap", "can_overflow"]

_ORDINARY = 1e3
"""Published weights of blocks are smaller than this by far."""


class TensorSource(Protocol):
    """Where a network's tensors come from: a checkpoint's `Weights`, or random numbers."""

    device: torch.device
    dtype: torch.dtype

    def fuse(self, parts: Mapping[str, Shape], cut: Cut | None = None) -> Tensor:
        """The tensors of these names and shapes stacked along their first dimension, or what `cut` leaves of each."""
        ...


@dataclass(frozen=True)
class WeightMap:
    """The parts of a network, and what a checkpoint calls their weights."""

    config: ModelConfig
    embedding: str
    final_norm: str
    head: str
    """A tied head has no tensor of its own."""
    block: str
    """What the names of a layer begin with, {} being its number; all names below come after it."""
    attn_norm: str
    attention: AttentionWeights
    mlp_norm: str
    feed_forward: FeedForwardWeights
    attn_out_norm: str | None = None
    """Of a norm of what attention adds to the rows; None = it has none."""
    mlp_out_norm: str | None = None
    """The same of the feed-forward."""
    visible: Visibility | None = None
    """Which slots a row may attend to; None = every one that holds a token."""

    def shapes(self) -> Iterator[tuple[str, Shape]]:
        """Every tensor of a checkpoint by name, with its shape; lazily, since a damaged config may ask for billions."""
        for parameter in self._outer.values():
            yield from parameter.stacked.items()
        for layer in range(self.config.layers):
            for parameter in self._layer(layer):
                yield from parameter.stacked.items()

    @property
    def parameters(self) -> int:
        """How many numbers a checkpoint has."""
        return self.nbytes(1)

    def nbytes(self, itemsize: int, quantize: str | None = None) -> int:
        """Bytes of a loaded network, plain numbers of `itemsize` bytes; quantize: as `build` takes it."""

        def count(parameters: Iterable[Parameter], quantize: str | None) -> int:
            return sum(
                packed_bytes(None if one.layout is None else quantize, shape, itemsize)
                for one in parameters
                for shape in one.stacked.values()
            )

        return count(self._outer.values(), None) + self.config.layers * count(self._layer(0), quantize)

    def check(self, weights: Weights) -> None:
        """The weights are those of the model that the config describes, no more and no less.

        Raises CheckpointError, and UnsupportedModelError for tensors that the model does not have.
        """
        tied = self.config.tied
        weights.check_all(self.shapes(), spare=(self.head,) if tied else ())
        if tied and self.head in weights.stored and not weights.same(self.embedding, self.head):
            raise UnsupportedModelError(
                f"config.json ties the head to the embedding, but {self.head!r} is stored and differs from it; "
                "set weight_tying or tie_word_embeddings to false if that head is the model's"
            )

    def build(
        self, source: TensorSource, team: Team | None = None, quantize: str | None = None, arrange: bool = True
    ) -> Transformer:
        """Read the network, or this rank's share of it; quantize: as what to pack the blocks' weights, one by one;
        arrange: whether to lay out the others as the device's kernels have them.

        Raises SettingError where the heads cannot be shared out, or a weight cannot be packed.
        """
        c, blocks, guarded = self.config, list[TransformerBlock](), False
        own = c if team is None else share_of(c, team)
        # The largest tensors first: each is there twice while it is laid out.
        outer = self._read(self._outer, source, team, None, arrange)
        for layer in range(c.layers):
            bounds, prefix = list[Tensor](), self.block.format(layer)
            norms, attention, mlp = (
                self._read(fields, source, team, quantize, arrange, prefix, bounds) for fields in self._block
            )
            # Where one layer may leave the range of numbers, the layers after it are given what it left.
            guarded = guarded or (source.device.type == "cpu" and can_overflow(bounds, source.dtype))
            part = self.attention.part(own, team, guarded, **attention)
            blocks.append(TransformerBlock(part, self.feed_forward.part(own, team, **mlp), **norms))
        return Transformer(
            config=c,
            blocks=tuple(blocks),
            **{"head_weight": outer["embedding"], **outer},
            rotary=Rotary(c, source.device),
            quantize=quantize,
            team=team,
            visible=self.visible,
        )

    @staticmethod
    def _read(
        fields: Mapping[str, Parameter],
        source: TensorSource,
        team: Team | None,
        quantize: str | None,
        arrange: bool,
        prefix: str = "",
        bounds: list[Tensor] | None = None,
    ) -> dict[str, Any]:
        """The tensors of a part by its fields; bounds: takes the largest magnitude in each."""
        held = {}
        for field, parameter in fields.items():
            cut = None if team is None or parameter.cut is None else Cut(parameter.cut, team.rank, team.ranks)
            stacked = source.fuse(parameter.under(prefix).stacked, cut)
            if bounds is not None:
                bounds.append(torch.linalg.vector_norm(stacked, torch.inf))
            held[field] = parameter.held(stacked, quantize, arrange)
            del stacked  # before the next is read
        return held

    def tensors(self, model: Transformer) -> Iterator[tuple[str, Tensor]]:
        """The network's tensors under their published names and in their order, stacked ones apart again: views where
        they are kept as published."""
        yield from _published(self._outer, model, "")
        for layer, block in enumerate(model.blocks):
            for part, fields in zip((block, block.attention, block.feed_forward), self._block, strict=True):
                yield from _published(fields, part, self.block.format(layer))

    @cached_property
    def _outer(self) -> dict[str, Parameter]:
        """Each tensor of a Transformer outside its blocks, by its field."""
        c = self.config
        fields = {
            "embedding": Parameter({self.embedding: (c.vocab, c.width)}, 0),
            "final_norm": Parameter({self.final_norm: (c.width,)}),
        }
        return fields if c.tied else {**fields, "head_weight": Parameter({self.head: (c.vocab, c.width)}, 0, laid_out)}

    @cached_property
    def _block(self) -> tuple[dict[str, Parameter], ...]:
        """Each tensor of a block's own, of its attention and of its feed-forward, by its field."""
        norms = ("attn_norm", "mlp_norm", "attn_out_norm", "mlp_out_norm")
        named = {field: name for field in norms if (name := getattr(self, field)) is not None}
        own = {field: Parameter({name: (self.config.width,)}) for field, name in named.items()}
        return own, self.attention.parameters(self.config), self.feed_forward.parameters(self.config)

    def _layer(self, layer: int) -> Iterator[Parameter]:
        """Every tensor of a layer, under its full names."""
        for fields in self._block:
            yield from (parameter.under(self.block.format(layer)) for parameter in fields.values())


def _published(fields: Mapping[str, Parameter], part: object, prefix: str) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a part's fields as a checkpoint has them."""
    for field, parameter in fields.items():
        weight = parameter.published(plain(getattr(part, field)))
        sizes = [shape[0] for shape in parameter.stacked.values()]
        yield from zip(parameter.under(prefix).stacked, torch.split(weight, sizes), strict=True)


def can_overflow(bounds: Iterable[Tensor], dtype: torch.dtype) -> bool:
    """Whether a forward could leave the range of its dtype, or starts from weights that are not finite. bounds: the
    largest magnitude in each weight of the blocks, NaN where one is NaN.

    In float32 and bfloat16 it cannot with weights of ordinary size: normed rows, products of 10**5 channels with such
    weights, and their products in attention stay below 10**36. float16 ends at 65,504.
    """
    return dtype == torch.float16 or not all(float(bound) <= _ORDINARY for bound in bounds)
