"""The key/value buffers of a running batch: they grow and shrink with its sequences, whose rows stay packed."""

from __future__ import annotations

import math

from dkv.core.kv_cache import KVCache
from dkv.core.model import Model
from dkv.engine.batch_key import BatchKey

__all__ = ["BatchBuffers"]


class BatchBuffers:
    """Buffers for a number of sequences of one key. memory: None while there are none."""

    def __init__(self, model: Model, key: BatchKey) -> None:
        self._model, self._key = model, key
        self.memory: KVCache | None = None

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return 0 if self.memory is None else self.memory.nbytes

    @property
    def size(self) -> tuple[int, int]:
        """How many sequences they can hold, and how long ones."""
        if self.memory is None:
            return 0, 0
        rows, width = self.memory.shape
        return rows // self._key.rows, width

    def cost(self, width: int) -> int:
        """Bytes for a sequence of so many positions."""
        buffers = [buffer for layer in self._empty(width).layers for buffer in layer.buffers.values()]
        return self._key.rows * sum(math.prod(b.shape[1:]) * b.element_size() for b in buffers)

    def resize(self, sequences: int, width: int, used: int) -> None:
        """Room for so many sequences; what the first `used` hold is kept. Layer by layer, so that old and new buffers
        are never held both; where that fails, `memory` is None, and the sequences are to be begun again."""
        old, self.memory = self.memory, None
        new, kept = self._empty(width), used * self._key.rows
        for number, layer in enumerate(new.layers):
            for name, empty in layer.buffers.items():
                layer.buffers[name] = empty.new_zeros((sequences * self._key.rows, *empty.shape[1:]))
                if old is not None and kept:
                    before = old.layers[number].buffers.pop(name)
                    held = min(before.shape[2], empty.shape[2]) - 1
                    layer.buffers[name][:kept, :, :held] = before[:kept, :, :held]
        self.memory = new

    def part(self, sequences: int, width: int, first: int = 0) -> KVCache:
        """A view of the first `width` slots of so many sequences, from `first` on."""
        if self.memory is None:
            raise RuntimeError("a batch without buffers has no state")
        return self.memory.part(sequences * self._key.rows, width, first * self._key.rows)

    def remove(self, place: int, last: int, length: int) -> None:
        """Clear the place of a sequence, and move the `last` one, of so many positions, there."""
        if self.memory is None:
            return
        for part in range(self._key.rows):
            target, source = place * self._key.rows + part, last * self._key.rows + part
            self.memory.clear(target)
            if place != last:
                self.memory.move(source, target, length)
                self.memory.clear(source)

    def _empty(self, width: int) -> KVCache:
        """A memory of no rows, for the shapes of its buffers."""
        memory = self._model.new_kv_cache(0, width, self._key.dtype)
        memory.keep(self._key.buffers, self._model.config.width)
        return memory
