"""The engine: a queue, cohorts of requests that share forwards, and one denoising step of all of them at a time.

Admission is by memory, first come first served. A request that is done or cancelled leaves at once, and its place is
free before the next step. In float32 a request's tokens depend neither on its company nor on when it came. One that
fails leaves with its error, and the others get what they would have got.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from typing import Protocol

import torch

from dkv.core.dtypes import named_dtype
from dkv.core.keywords import checked_keywords
from dkv.core.model import Model
from dkv.core.packing import Bucket
from dkv.core.policy import rules_of
from dkv.core.torch_settings import shielded
from dkv.core.values import as_count
from dkv.core.wording import is_number, shown
from dkv.engine.equality import first_alike, first_alike_rules
from dkv.engine.policy_calls import CallLimits
from dkv.engine.request import Request, Status, Update
from dkv.engine.request_errors import failure, must_stop
from dkv.engine.running_batch import BatchKey, Member, RunningBatch, SequenceOutcome
from dkv.engine.sequence import Track
from dkv.engine.watchdog import bounded
from dkv.errors import BusyError, CapacityError, DkvError, PromptError, SettingError
from dkv.tokenizer import Tokenizer
from dkv.version import installed_version

__all__ = ["Engine", "ServedModel"]

_SHORTEST = 64
"""Slots of the shortest pool; the others double."""
_PATIENCE = 30.0
"""Seconds; a call of a policy takes milliseconds."""


class ServedModel(Protocol):
    """What an engine asks of a loaded model: `DiffusionLM`, or anything with these attributes."""

    audit: bool
    """Check every read of the cache and every commit."""

    @property
    def model(self) -> Model:
        """The network, with what records its forwards."""
        ...

    @property
    def network(self) -> Model:
        """The network itself."""
        ...

    @property
    def tokenizer(self) -> Tokenizer | None:
        """Text to ids and back; None for token ids only."""
        ...

    @property
    def bucket(self) -> Bucket:
        """How row counts are rounded up."""
        ...

    def release_memory(self) -> None:
        """Give free memory of this process back to the system."""
        ...


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
        self._lm, self._limit = lm, None if memory is None else as_count("memory", memory)
        self._active, self._waiting = as_count("active", active), as_count("waiting", waiting)
        self._bucket = lm.bucket
        self._version = installed_version()
        self._queue: deque[Member] = deque()
        self._cohorts: dict[BatchKey, RunningBatch] = {}
        self._kinds: dict[int, BatchKey] = {}
        self._costs: dict[BatchKey, int] = {}  # bytes of a member, where there is a limit
        self._tickets = 0
        self._counts: Counter[str] = Counter()
        self._seconds = self._rows = 0.0

    @shielded()
    def add(self, request: Request) -> int:
        """Take a request in; its ticket. It begins with the next step that has room for it.

        Raises BusyError where the queue is full, SettingError where the request could never fit the memory, PromptError
        for token ids that the model does not have, and RequestError where its policy or decoder is no such.
        """
        if len(self._queue) >= self._waiting:
            raise BusyError(f"{len(self._queue)} requests are waiting already; try again later")
        self._check_ids(request)
        try:
            member, kind = bounded(lambda: self._member(request), self._limits.seconds)
            self._check_fit(member, kind)
        except BaseException as error:
            if must_stop(error, self._lm.model.device):
                raise
            raise failure("the request", error) from None
        self._tickets += 1
        self._kinds[member.request_id] = kind
        self._queue.append(member)
        self._counts["started"] += 1
        return member.request_id

    def _member(self, request: Request) -> tuple[Member, BatchKey]:
        """A request with the next ticket, and its kind. All that asks its policy and its decoder what they are."""
        track = Track(
            self._lm.model.config,
            self._lm.tokenizer,
            list(request.prompt),
            request.settings,
            request.seed,
            self._version,
            request.trace,
            holed=bool(request.given),
        )
        policy = first_alike(request.settings.cache, (member.policy for member in self._latest()))
        decoder = first_alike(request.settings.decoder, (member.decoder for member in self._latest()))
        member = Member(self._tickets, request, track, policy, decoder)
        kind = self._kind_of(member)
        hash(kind.rules)
        return member, kind

    def _latest(self) -> Iterator[Member]:
        """All members, the newest of the queue first."""
        yield from reversed(self._queue)
        for cohort in self._cohorts.values():
            yield from cohort.members

    def _check_ids(self, request: Request) -> None:
        vocab = self._lm.model.config.vocab
        ids = [token for part in (request.prompt, request.given) for token in part if token is not None]
        if bad := [token for token in ids if type(token) is not int or not 0 <= token < vocab]:
            raise PromptError(f"prompt: token id {shown(bad[0])} must be a whole number in [0, {vocab})")

    @shielded()
    @torch.inference_mode()
    def cancel(self, ticket: int) -> bool:
        """Drop a request; its place is free at once. Whether there was one."""
        if ticket not in self._kinds:
            return False
        self._queue = deque(member for member in self._queue if member.request_id != ticket)
        for cohort in self._cohorts.values():
            cohort.leave({ticket})
        del self._kinds[ticket]
        self._drop_empty()
        self._counts["cancelled"] += 1
        return True

    @shielded()
    @torch.inference_mode()
    def step(self) -> list[Update]:
        """Let in what fits, and take one denoising step of all that are under way: what it did to each of them, an
        update each. Empty when there is nothing to do. Raises what ends all of them: a dead device, a lost rank."""
        began = time.perf_counter()
        refused = [self._fail(outcome) for outcome in self._admit()]
        self._drop_empty()
        steps = [(cohort, cohort.step()) for cohort in self._cohorts.values()]
        passed = time.perf_counter() - began
        if not steps:
            return refused
        self._counts["steps"] += 1
        self._seconds += passed
        return refused + [update for cohort, results in steps for update in self._after(cohort, results, passed)]

    def release_memory(self) -> None:
        """Give free memory of this process back to the system; for times without requests."""
        self._lm.release_memory()

    def status(self) -> Status:
        """Where it stands."""
        return Status(
            active=sum(len(cohort.members) for cohort in self._cohorts.values()),
            waiting=len(self._queue),
            memory_used=self._used(),
            memory_limit=self._limit,
            requests_started=self._counts["started"],
            requests_finished=self._counts["finished"],
            requests_cancelled=self._counts["cancelled"],
            requests_failed=self._counts["failed"],
            tokens=self._counts["tokens"],
            rows_computed=self._rows,
            rows_total=self._counts["rows"],
            steps=self._counts["steps"],
            step_seconds=self._seconds,
        )

    def _after(self, cohort: RunningBatch, results: list[SequenceOutcome], seconds: float) -> list[Update]:
        """Take the time, and let those go that finished, or failed."""
        leaving, updates = set[int](), list[Update]()
        for outcome in results:
            outcome.member.track.seconds += seconds
            if outcome.error is not None:
                updates.append(self._fail(outcome))
            elif outcome.last:
                updates.append(self._finish(cohort, outcome))
            else:
                updates.append(outcome.update)
            if updates[-1].last:
                leaving.add(outcome.member.request_id)
        if leaving:
            cohort.leave(leaving)
            self._drop_empty()
        return updates

    def _finish(self, cohort: RunningBatch, outcome: SequenceOutcome) -> Update:
        member = outcome.member
        try:
            generation = member.track.result(cohort.response(member))
            ids, text = member.deltas.close(generation.token_ids, generation.text)
        except BaseException as error:
            if must_stop(error, self._lm.model.device):
                raise
            return self._fail(replace(outcome, error=failure("its result", error)))
        del self._kinds[member.request_id]
        self._counts["finished"] += 1
        self._counts["tokens"] += generation.stats.new_tokens
        self._counts["rows"] += generation.stats.rows_total
        self._rows += generation.stats.rows_computed
        return replace(outcome.update, ids=ids, text=text, generation=generation)

    def _fail(self, outcome: SequenceOutcome) -> Update:
        """The last that is told of a request that failed."""
        del self._kinds[outcome.member.request_id]
        self._counts["failed"] += 1
        return Update(outcome.member.request_id, error=outcome.error)

    def _kind_of(self, member: Member) -> BatchKey:
        settings, width = member.track.settings, 0
        if self._limit is not None:
            width = max(_SHORTEST, 1 << (member.length - 1).bit_length())
        model = self._lm.model
        dtype = model.dtype if settings.cache_dtype is None else named_dtype("cache_dtype", settings.cache_dtype)
        known = (kind.rules for kind in chain(reversed(self._kinds.values()), self._costs))
        return BatchKey(width, first_alike_rules(rules_of(member.policy), known), settings.cfg_scale > 0, dtype)

    def _check_fit(self, member: Member, kind: BatchKey) -> None:
        if self._limit is None:
            return
        if kind not in self._costs:
            self._costs[kind] = self._cohort(kind).cost(kind.width)
        need = self._costs[kind]
        if need > self._limit:
            raise CapacityError(
                f"memory={self._limit} bytes cannot hold the cache of {member.length} positions, {need} bytes; "
                "raise memory, or shorten the prompt or gen_length",
                member.length, need, self._limit,
            )  # fmt: skip

    def _admit(self) -> list[SequenceOutcome]:
        """Let in from the head of the queue while there is room; one that does not fit holds up those behind it, so
        that nobody waits for ever. Those that failed in it."""
        arrivals: dict[BatchKey, list[Member]] = {}
        under_way = sum(len(cohort.members) for cohort in self._cohorts.values())
        while self._queue and under_way < self._active:
            kind = self._kinds[self._queue[0].request_id]
            trial = {**arrivals, kind: [*arrivals.get(kind, []), self._queue[0]]}
            if self._limit is not None and self._bytes(self._sizes(trial)) > self._limit:
                break
            arrivals = trial
            self._queue.popleft()
            under_way += 1
        if not arrivals:
            return []
        try:
            self._make_room(arrivals)
            return [failed for kind, members in arrivals.items() for failed in self._join(kind, members)]
        except BaseException as error:
            if must_stop(error, self._lm.model.device):
                raise
            return self._turn_away(arrivals, failure("making room", error))

    def _join(self, kind: BatchKey, members: list[Member]) -> list[SequenceOutcome]:
        return self._cohorts[kind].join(members)

    def _turn_away(self, arrivals: dict[BatchKey, list[Member]], error: DkvError) -> list[SequenceOutcome]:
        """Where there was no memory for those who came: the longest of them fails, the others wait again, and whoever
        lost buffers in between begins again."""
        inside = {member.request_id for cohort in self._cohorts.values() for member in cohort.members}
        outside = sorted(
            (m for members in arrivals.values() for m in members if m.request_id not in inside),
            key=lambda m: m.request_id,
        )
        worst = max(outside, key=lambda member: (member.length, member.request_id), default=None)
        self._queue.extendleft(reversed([member for member in outside if member is not worst]))
        failed = [] if worst is None else [SequenceOutcome(worst, Update(worst.request_id), error=error)]
        for kind, cohort in self._cohorts.items():
            if cohort.members and cohort.memory is None:
                failed += self._revive(kind, cohort)
        return failed

    def _revive(self, kind: BatchKey, cohort: RunningBatch) -> list[SequenceOutcome]:
        """Begin again, in new buffers, the members of a cohort that lost its own: as many as find room."""
        failed = list[SequenceOutcome]()
        while cohort.members:
            longest = max(cohort.members, key=lambda member: (member.length, member.request_id))
            try:
                members, cohort.members = cohort.members, []
                cohort.resize(len(members), kind.width or longest.length)
                cohort.members = members
                return failed + cohort.restart()
            except BaseException as error:
                if must_stop(error, self._lm.model.device):
                    raise
                cohort.members = [member for member in members if member is not longest]
                failed.append(SequenceOutcome(longest, Update(longest.request_id), error=failure("making room", error)))
        return failed

    def _make_room(self, arrivals: dict[BatchKey, list[Member]]) -> None:
        """Resize buffers for the arrivals: to twice as many where that fits, so that a growing cohort is copied rarely;
        else all to what they need."""
        need = self._sizes(arrivals)
        roomy = {kind: (self._roomy(kind, members), width) for kind, (members, width) in need.items()}
        sizes = roomy if self._limit is None or self._bytes(roomy) <= self._limit else need
        changes = [(kind, size) for kind, size in sizes.items() if size != self._cohort(kind).size]
        for kind, (members, width) in sorted(
            changes, key=lambda change: change[1][0] - self._cohort(change[0]).size[0]
        ):
            self._cohorts[kind] = self._cohort(kind)
            self._cohorts[kind].resize(members, width)

    def _sizes(self, arrivals: dict[BatchKey, list[Member]]) -> dict[BatchKey, tuple[int, int]]:
        """The members and positions that each cohort needs at least, with the arrivals."""
        sizes = {}
        for kind in dict.fromkeys((*self._cohorts, *arrivals)):
            members = [*self._cohort(kind).members, *arrivals.get(kind, [])]
            longest = max((member.length for member in members), default=0)
            sizes[kind] = len(members), kind.width or max(longest, self._cohort(kind).size[1])
        return sizes

    def _roomy(self, kind: BatchKey, members: int) -> int:
        room = self._cohort(kind).size[0]
        return room if members <= room else max(members, min(2 * room, self._active))

    def _bytes(self, sizes: dict[BatchKey, tuple[int, int]]) -> int:
        return sum(members * self._costs[kind] for kind, (members, _) in sizes.items())

    def _cohort(self, kind: BatchKey) -> RunningBatch:
        """The cohort of a kind, or one to be."""
        return self._cohorts.get(kind) or RunningBatch(self._lm.model, kind, self._bucket, self._limits)

    def _used(self) -> int:
        return sum(cohort.nbytes for cohort in self._cohorts.values())

    def _drop_empty(self) -> None:
        self._cohorts = {kind: cohort for kind, cohort in self._cohorts.items() if cohort.members}
