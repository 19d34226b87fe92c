"""The running batches of an engine, one for each key, and the memory that they share."""

from __future__ import annotations

from collections import abc

from dkv.core.model import Model
from dkv.core.packing import Bucket
from dkv.engine.batch_setup import BatchKey
from dkv.engine.policy_calls import CallLimits
from dkv.engine.running_batch import RunningBatch
from dkv.engine.sequence import Sequence
from dkv.errors import CapacityError

__all__ = ["Arrivals", "Batches"]

_SHORTEST = 64
"""Slots of the shortest pool; the others double."""

Arrivals = abc.Mapping[BatchKey, abc.Sequence[Sequence]]
"""Sequences that are to join, by the key of their batch."""


class Batches(dict[BatchKey, RunningBatch]):
    """Batches by key. limit: bytes of cache at most, None = no limit; active: sequences at most, of all."""

    def __init__(self, model: Model, bucket: Bucket, limits: CallLimits, limit: int | None, active: int) -> None:
        super().__init__()
        self._model, self._bucket, self._limits, self._active = model, bucket, limits, active
        self.limit = limit
        self._costs: dict[BatchKey, int] = {}  # bytes of a sequence, where there is a limit

    @property
    def nbytes(self) -> int:
        """Bytes of the buffers held."""
        return sum(batch.buffers.nbytes for batch in self.values())

    @property
    def known_keys(self) -> abc.Iterable[BatchKey]:
        """Those of which the cost is known."""
        return self._costs

    def width_of(self, length: int) -> int:
        """Slots for a sequence of so many positions: a pool's, where there is a limit, else 0 for as many as needed."""
        return 0 if self.limit is None else max(_SHORTEST, 1 << (length - 1).bit_length())

    def check_fit(self, length: int, key: BatchKey) -> None:
        """Raises CapacityError where a sequence of so many positions could never fit."""
        if self.limit is None:
            return
        if key not in self._costs:
            self._costs[key] = self._get(key).buffers.cost(key.width)
        need = self._costs[key]
        if need > self.limit:
            raise CapacityError(
                f"memory={self.limit} bytes cannot hold the cache of {length} positions, {need} bytes; "
                "raise memory, or shorten the prompt or gen_length",
                length, need, self.limit,
            )  # fmt: skip

    def have_room(self, arrivals: Arrivals) -> bool:
        """Whether the limit allows for the arrivals."""
        return self.limit is None or self._bytes(self._sizes(arrivals)) <= self.limit

    def make_room(self, arrivals: Arrivals) -> None:
        """Resize buffers for the arrivals: to twice as many where that fits, so that a growing batch is copied rarely;
        else all to what they need."""
        need = self._sizes(arrivals)
        roomy = {key: (self._roomy(key, count), width) for key, (count, width) in need.items()}
        sizes = roomy if self.limit is None or self._bytes(roomy) <= self.limit else need
        changes = [(key, size) for key, size in sizes.items() if size != self._get(key).buffers.size]
        for key, (count, width) in sorted(
            changes, key=lambda change: change[1][0] - self._get(change[0]).buffers.size[0]
        ):
            self[key] = self._get(key)
            self[key].resize(count, width)

    def drop_empty(self) -> None:
        """Forget batches without sequences."""
        for key in [key for key, batch in self.items() if not batch.sequences]:
            del self[key]

    def _sizes(self, arrivals: Arrivals) -> dict[BatchKey, tuple[int, int]]:
        """The sequences and positions that each batch needs at least, with the arrivals."""
        sizes = {}
        for key in dict.fromkeys((*self, *arrivals)):
            sequences = [*self._get(key).sequences, *arrivals.get(key, [])]
            longest = max((sequence.length for sequence in sequences), default=0)
            sizes[key] = len(sequences), key.width or max(longest, self._get(key).buffers.size[1])
        return sizes

    def _roomy(self, key: BatchKey, count: int) -> int:
        room = self._get(key).buffers.size[0]
        return room if count <= room else max(count, min(2 * room, self._active))

    def _bytes(self, sizes: abc.Mapping[BatchKey, tuple[int, int]]) -> int:
        return sum(count * self._costs[key] for key, (count, _) in sizes.items())

    def _get(self, key: BatchKey) -> RunningBatch:
        """The batch of a key, or one to be."""
        return self.get(key) or RunningBatch(self._model, key, self._bucket, self._limits)
