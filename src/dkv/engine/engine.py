"""The engine: a queue, batches of requests that share forwards, and one denoising step of all of them at a time.

Admission is by memory, first come first served. A request that is done or cancelled leaves at once, and its place is
free before the next step. In float32 a request's tokens depend neither on its company nor on when it came. One that
fails leaves with its error, and the others get what they would have got.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import chain
from typing import Any

import torch

from dkv.core.model import Model, shielded
from dkv.core.packing import Bucket
from dkv.core.policy import rules_of
from dkv.core.registry import first_alike, is_own
from dkv.core.values import as_count, checked_keywords, is_number, shown
from dkv.engine.batch_setup import BatchKey
from dkv.engine.per_sequence import CallLimits, alike_rules
from dkv.engine.request_errors import failure, must_stop
from dkv.engine.running_batch import RunningBatch
from dkv.engine.sequence import Request, Sequence, SequenceOutcome, Status, Update
from dkv.engine.served_model import ServedModel
from dkv.engine.watchdog import bounded
from dkv.errors import BusyError, CapacityError, DkvError, PromptError, SettingError

__all__ = ["Engine"]

_PATIENCE = 30.0
"""Seconds; a call of a policy takes milliseconds."""
_COUNTS = (
    "requests_started", "requests_finished", "requests_cancelled", "requests_failed", "tokens", "rows_total", "steps",
)  # fmt: skip
_SHORTEST = 64
"""Slots of the shortest pool; the others double."""

_Arrivals = Mapping[BatchKey, list[Sequence]]
"""Sequences that are to join, by the key of their batch."""


class Engine:
    """Serves many requests with one model. Not for several threads at once; `Service` gives it one of its own.

    memory: bytes of cache at most, None = no limit; active, waiting: requests at most under way, and in the queue;
    patience: seconds that one call of a policy or a decoder of another package may take, None = any.
    With a limit, buffers are pooled by length (powers of two), so that a short request does not hold a long slot; they
    grow with the requests at hand and are given back when these are gone.
    """

    @checked_keywords
    def __init__(
        self,
        lm: ServedModel,
        *,
        memory: int | None = None,
        active: int = 32,
        waiting: int = 256,
        patience: float | None = _PATIENCE,
    ) -> None:
        if patience is not None and not (is_number(patience) and 0 < patience <= threading.TIMEOUT_MAX):
            raise SettingError(f"patience={shown(patience)} must be a positive number of seconds, or None")
        team = getattr(lm.network, "team", None)
        self._limits = CallLimits(patience, None if team is None else team.worst, lm.audit)
        self._lm = lm
        self._active, self._waiting = as_count("active", active), as_count("waiting", waiting)
        limit = None if memory is None else as_count("memory", memory)
        self.batches = _Batches(lm.model, lm.bucket, self._limits, limit, self._active)
        self._queue: deque[Sequence] = deque()
        self._keys: dict[int, BatchKey] = {}
        self._next_id = 0
        self._totals: dict[str, Any] = {**dict.fromkeys(_COUNTS, 0), "rows_computed": 0.0, "step_seconds": 0.0}

    @shielded()
    def add(self, request: Request) -> int:
        """Take a request in; its request_id. It begins with the next step that has room for it.

        Raises BusyError where the queue is full, SettingError where the request could never fit the memory, PromptError
        for token ids that the model does not have, and RequestError where its policy or decoder is no such.
        """
        if len(self._queue) >= self._waiting:
            raise BusyError(f"{len(self._queue)} requests are waiting already; try again later")
        self._check_ids(request)
        try:
            own = is_own(request.settings.cache) and is_own(request.settings.decoder)
            made = self._sequence(request) if own else bounded(lambda: self._sequence(request), self._limits.seconds)
            sequence, key = made
            self.batches.check_fit(sequence.length, key)
        except BaseException as error:
            if must_stop(error, self._lm.model.device):
                raise
            raise failure("the request", error) from None
        self._next_id += 1
        self._keys[sequence.request_id] = key
        self._queue.append(sequence)
        self._totals["requests_started"] += 1
        return sequence.request_id

    def _sequence(self, request: Request) -> tuple[Sequence, BatchKey]:
        """A request with the next request_id, and its key. All that asks its policy and its decoder what they are."""
        sequence = Sequence(
            self._next_id,
            request,
            self._lm.model.config,
            self._lm.tokenizer,
            policy=first_alike(request.settings.cache, (one.policy for one in self._latest())),
            decoder=first_alike(request.settings.decoder, (one.decoder for one in self._latest())),
        )
        key = self._key_of(sequence)
        hash(key.rules)
        return sequence, key

    def _latest(self) -> Iterator[Sequence]:
        """All sequences, the newest of the queue first."""
        yield from reversed(self._queue)
        for batch in self.batches.values():
            yield from batch.sequences

    def _check_ids(self, request: Request) -> None:
        vocab = self._lm.model.config.vocab
        ids = [token for part in (request.prompt, request.given) for token in part if token is not None]
        if bad := [token for token in ids if type(token) is not int or not 0 <= token < vocab]:
            raise PromptError(f"prompt: token id {shown(bad[0])} must be a whole number in [0, {vocab})")

    @shielded()
    @torch.inference_mode()
    def cancel(self, request_id: int) -> bool:
        """Drop a request; its place is free at once. Whether there was one."""
        if request_id not in self._keys:
            return False
        self._queue = deque(sequence for sequence in self._queue if sequence.request_id != request_id)
        for batch in self.batches.values():
            batch.leave({request_id})
        del self._keys[request_id]
        self.batches.drop_empty()
        self._totals["requests_cancelled"] += 1
        return True

    @shielded()
    @torch.inference_mode()
    def step(self) -> list[Update]:
        """Let in what fits, and take one denoising step of all that are under way: what it did to each of them, an
        update each. Empty when there is nothing to do. Raises what ends all of them: a dead device, a lost rank."""
        began = time.perf_counter()
        refused = [self._fail(outcome) for outcome in self._admit()]
        self.batches.drop_empty()
        steps = [(batch, batch.step()) for batch in self.batches.values()]
        passed = time.perf_counter() - began
        if not steps:
            return refused
        self._totals["steps"] += 1
        self._totals["step_seconds"] += passed
        return refused + [update for batch, results in steps for update in self._after(batch, results, passed)]

    def release_memory(self) -> None:
        """Give free memory of this process back to the system; for times without requests."""
        self._lm.release_memory()

    def status(self) -> Status:
        """Where it stands."""
        return Status(
            active=sum(len(batch.sequences) for batch in self.batches.values()),
            waiting=len(self._queue),
            memory_used=self.batches.nbytes,
            memory_limit=self.batches.limit,
            **self._totals,
        )

    def _after(self, batch: RunningBatch, results: list[SequenceOutcome], seconds: float) -> list[Update]:
        """Take the time, and let those go that finished, or failed."""
        leaving, updates = set[int](), list[Update]()
        for outcome in results:
            outcome.sequence.seconds += seconds
            if outcome.error is not None:
                updates.append(self._fail(outcome))
            elif outcome.last:
                updates.append(self._finish(batch, outcome))
            else:
                updates.append(outcome.update)
            if updates[-1].last:
                leaving.add(outcome.sequence.request_id)
        if leaving:
            batch.leave(leaving)
            self.batches.drop_empty()
        return updates

    def _finish(self, batch: RunningBatch, outcome: SequenceOutcome) -> Update:
        sequence = outcome.sequence
        try:
            generation = sequence.result(batch.response(sequence))
            ids, text = sequence.text.close(generation.token_ids, generation.text)
        except BaseException as error:
            if must_stop(error, self._lm.model.device):
                raise
            return self._fail(replace(outcome, error=failure("its result", error)))
        del self._keys[sequence.request_id]
        self._totals["requests_finished"] += 1
        self._totals["tokens"] += generation.stats.new_tokens
        self._totals["rows_total"] += generation.stats.rows_total
        self._totals["rows_computed"] += generation.stats.rows_computed
        return replace(outcome.update, ids=ids, text=text, generation=generation)

    def _fail(self, outcome: SequenceOutcome) -> Update:
        """The last that is told of a request that failed."""
        del self._keys[outcome.sequence.request_id]
        self._totals["requests_failed"] += 1
        return Update(outcome.sequence.request_id, error=outcome.error)

    def _key_of(self, sequence: Sequence) -> BatchKey:
        rules = rules_of(sequence.policy)
        known = (key.rules for key in chain(reversed(self._keys.values()), self.batches.known_keys))
        rules = next((one for one in known if alike_rules(one, rules)), rules)
        return BatchKey.of(sequence.settings, rules, self.batches.width_of(sequence.length), self._lm.model)

    def _admit(self) -> list[SequenceOutcome]:
        """Let in from the head of the queue while there is room; one that does not fit holds up those behind it, so
        that nobody waits for ever. Those that failed in it."""
        arrivals: dict[BatchKey, list[Sequence]] = {}
        under_way = sum(len(batch.sequences) for batch in self.batches.values())
        while self._queue and under_way < self._active:
            key = self._keys[self._queue[0].request_id]
            trial = {**arrivals, key: [*arrivals.get(key, []), self._queue[0]]}
            if not self.batches.have_room(trial):
                break
            arrivals = trial
            self._queue.popleft()
            under_way += 1
        if not arrivals:
            return []
        try:
            self.batches.make_room(arrivals)
            return [failed for key, sequences in arrivals.items() for failed in self.batches[key].join(sequences)]
        except BaseException as error:
            if must_stop(error, self._lm.model.device):
                raise
            return self._turn_away(arrivals, failure("making room", error))

    def _turn_away(self, arrivals: _Arrivals, error: DkvError) -> list[SequenceOutcome]:
        """Where there was no memory for those who came: the longest of them fails, the others wait again, and whoever
        lost buffers in between begins again."""
        inside = {sequence.request_id for batch in self.batches.values() for sequence in batch.sequences}
        came = [sequence for sequences in arrivals.values() for sequence in sequences]
        outside = sorted((one for one in came if one.request_id not in inside), key=lambda one: one.request_id)
        worst = max(outside, key=lambda one: (one.length, one.request_id), default=None)
        self._queue.extendleft(reversed([sequence for sequence in outside if sequence is not worst]))
        failed = [] if worst is None else [SequenceOutcome(worst, Update(worst.request_id), error=error)]
        for key, batch in self.batches.items():
            if batch.sequences and batch.buffers.memory is None:
                failed += self._revive(key, batch)
        return failed

    def _revive(self, key: BatchKey, batch: RunningBatch) -> list[SequenceOutcome]:
        """Begin again, in new buffers, the sequences of a batch that lost its own: as many as find room."""
        failed = list[SequenceOutcome]()
        while batch.sequences:
            longest = max(batch.sequences, key=lambda sequence: (sequence.length, sequence.request_id))
            try:
                sequences, batch.sequences = batch.sequences, []
                batch.resize(len(sequences), key.width or longest.length)
                batch.sequences = sequences
                return failed + batch.restart()
            except BaseException as error:
                if must_stop(error, self._lm.model.device):
                    raise
                batch.sequences = [sequence for sequence in sequences if sequence is not longest]
                failed.append(SequenceOutcome(longest, Update(longest.request_id), error=failure("making room", error)))
        return failed


class _Batches(dict[BatchKey, RunningBatch]):
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
    def known_keys(self) -> Iterable[BatchKey]:
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

    def have_room(self, arrivals: _Arrivals) -> bool:
        """Whether the limit allows for the arrivals."""
        return self.limit is None or self._bytes(self._sizes(arrivals)) <= self.limit

    def make_room(self, arrivals: _Arrivals) -> None:
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

    def _sizes(self, arrivals: _Arrivals) -> dict[BatchKey, tuple[int, int]]:
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

    def _bytes(self, sizes: Mapping[BatchKey, tuple[int, int]]) -> int:
        return sum(count * self._costs[key] for key, (count, _) in sizes.items())

    def _get(self, key: BatchKey) -> RunningBatch:
        """The batch of a key, or one to be."""
        return self.get(key) or RunningBatch(self._model, key, self._bucket, self._limits)
