"""Requests that share forwards: one batch whose sequences change between steps.

Its rows stay packed: the last one moves into the place of one that leaves, and every step sees only the rows in use,
as wide as the longest of them. So what is computed follows the requests at hand, not the size of the buffers.

Where a step fails as a whole, it is done again for each sequence alone, and those that fail again are named. Nothing
but the buffers changes in place, and a dense forward overwrites what it has written; under rules that look at what a
slot held, the sequences that are not at fault begin again, which gives the same tokens, and sends nothing twice.
"""

from __future__ import annotations

from collections import abc
from dataclasses import dataclass

import torch

from dkv.core.canvas import SequenceState
from dkv.core.loop import State, StepOutput, advance, finish, not_finite
from dkv.core.model import Model
from dkv.core.packing import Bucket
from dkv.core.registry import name_of
from dkv.engine.batch_setup import BatchBuffers, BatchKey, BatchSetup
from dkv.engine.per_sequence import CallLimits, PerSequencePolicy
from dkv.engine.request_errors import failure, is_memory, must_stop
from dkv.engine.sequence import Sequence, SequenceOutcome, Update
from dkv.engine.watchdog import OvertimeError, bounded
from dkv.errors import DkvError, RequestError

__all__ = ["RunningBatch"]


class RunningBatch:
    """Sequences of one key.

    On several ranks a forward that fails stops them all: the others wait in it.
    """

    def __init__(self, model: Model, key: BatchKey, bucket: Bucket, limits: CallLimits) -> None:
        """limits: of calls of policies and decoders."""
        self._model, self._key, self._limits = model, key, limits
        self._setup = BatchSetup(model, key, bucket, limits)
        self.buffers = BatchBuffers(model, key)
        self.sequences: list[Sequence] = []
        """Those under way; each has `key.rows` rows, in this order."""
        self.state: State | None = None
        """Where they stand; None while there are none."""
        self.on_step: abc.Callable[[StepOutput], object] | None = None
        """Is shown what each step did to all. It must not keep it, as it holds the logits."""

    def resize(self, sequences: int, width: int) -> None:
        """Buffers for so many sequences, which all that are in it must fit. Where that fails, `buffers.memory` is None,
        and the sequences are to be begun again."""
        standing, self.state = None if self.state is None else self.state.sequences, None  # it views the old buffers
        self.buffers.resize(sequences, width, len(self.sequences))
        if standing is not None:
            self._stand(self.sequences, standing)

    def join(self, sequences: abc.Sequence[Sequence]) -> list[SequenceOutcome]:
        """Take new sequences in; there must be room. Those that cannot begin, and why."""
        begun, refused = list[SequenceState](), list[SequenceOutcome]()
        joining = list[Sequence]()
        for sequence in sequences:
            try:
                begun.append(self._setup.begin(sequence))
                joining.append(sequence)
            except BaseException as error:
                refused.append(_failed(sequence, "the request", error, self._model.device))
        if joining:
            everyone = [*self.sequences, *joining]
            first, *rest = begun if self.state is None else [self.state.sequences, *begun]
            self._stand(everyone, first.cat(rest, max(sequence.length for sequence in everyone)))
            self.sequences = everyone
        return refused

    def restart(self) -> list[SequenceOutcome]:
        """Begin all sequences again, in the buffers that there are. Those that cannot begin leave, and why."""
        sequences, self.sequences, self.state = self.sequences, [], None
        for sequence in sequences:
            sequence.restart()
        return self.join(sequences)

    def leave(self, request_ids: abc.Set[int]) -> None:
        """Let sequences go, if they are here; the last ones take their places."""
        leaving = [n for n, sequence in enumerate(self.sequences) if sequence.request_id in request_ids]
        if not leaving:
            return
        if self.state is None or len(leaving) == len(self.sequences):
            self.sequences = [sequence for sequence in self.sequences if sequence.request_id not in request_ids]
            self.state = self.buffers.memory = None
            return
        order = list(range(len(self.sequences)))
        for place in leaving[::-1]:
            last = order.pop()
            self.buffers.remove(place, len(order), self.sequences[last].length)
            if place < len(order):
                order[place] = last
        self.sequences = [self.sequences[n] for n in order]
        rows = [n * self._key.rows + part for n in order for part in range(self._key.rows)]
        width = max(sequence.length for sequence in self.sequences)
        self._stand(self.sequences, self.state.sequences.gather(rows, width))

    def step(self) -> list[SequenceOutcome]:
        """One denoising step of every sequence: what it did to each. Raises what ends them all."""
        state = self.state
        if state is None:
            return _completed(None, self.sequences)
        before = state.sequences.snapshot()
        try:
            return self._taken(state, self.sequences)
        except BaseException as error:
            # On several ranks the others wait in this very forward.
            if self._limits.agree is not None or must_stop(error, self._model.device):
                raise
            if isinstance(error, OvertimeError):  # alone each would take as long
                return [_failed(one, "its layer rule", error, self._model.device) for one in self.sequences]
            error.__traceback__ = None  # its frames hold what the forward had made
        if self._model.device.type == "cuda":
            torch.cuda.empty_cache()
        return self._singly(before)

    def response(self, sequence: Sequence) -> list[int]:
        """The response of a sequence, as it stands. Raises RequestError where its decoder left some of it undecided."""
        if self.state is None:
            return []
        row = self._key.rows * next(place for place, one in enumerate(self.sequences) if one is sequence)
        canvas, own = self.state.canvas, sequence.response
        ids, unfixed = torch.stack((canvas.tokens[row, own], canvas.unfixed[row, own].long())).tolist()
        if any(unfixed):
            raise RequestError(
                f"decoder={name_of(sequence.settings.decoder)!r} left {sum(unfixed)} of {len(ids)} positions "
                "undecided when the steps were over"
            )
        return list(ids)

    def _stand(self, sequences: abc.Sequence[Sequence], standing: SequenceState) -> None:
        """Go on with these sequences from where they stand."""
        memory = self.buffers.part(len(sequences), standing.shape[1])
        self.state = self._setup.state(sequences, standing, memory)

    def _taken(self, state: State, sequences: abc.Sequence[Sequence]) -> list[SequenceOutcome]:
        """A step of a state of these sequences. Raises whatever goes wrong with all."""
        output = self._advanced(state)
        if output is None:
            return _completed(state, sequences)
        if self.on_step is not None:
            self.on_step(output)
        rows = self._key.rows
        for n, sequence in enumerate(sequences):
            own = slice(n * rows, (n + 1) * rows)
            sequence.count(output.counts[own.start], sum(output.work[own]), sum(output.lengths[own]))
        return _outcomes(state, output, sequences)

    def _advanced(self, state: State) -> StepOutput | None:
        """A step, of bounded time where layers follow another package's rules."""
        return advance(state) if self._key.is_own else bounded(lambda: advance(state), self._limits.seconds)

    def _singly(self, before: SequenceState) -> list[SequenceOutcome]:
        """The step of each sequence alone, from where `before` stands, once that of all together has failed."""
        width, rows = before.shape[1], self._key.rows
        outcomes, parts = list[SequenceOutcome](), list[SequenceState]()
        for n, sequence in enumerate(self.sequences):
            own = before.gather(range(n * rows, (n + 1) * rows), width)
            memory = self.buffers.part(1, width, n)
            try:
                state = self._setup.state([sequence], own.snapshot(), memory)
                if not self._key.rules.dense:  # only to see who is at fault
                    self._advanced(state)
                    continue
                outcomes += self._taken(state, [sequence])
                parts.append(state.sequences)
            except BaseException as error:
                outcomes.append(_failed(sequence, "a step of it", error, self._model.device))
                parts.append(own)
        if not self._key.rules.dense:
            return self._begun_again(outcomes)
        self._stand(self.sequences, parts[0].cat(parts[1:], width))
        return _largest_only(outcomes)

    def _begun_again(self, outcomes: list[SequenceOutcome]) -> list[SequenceOutcome]:
        """Of rules that look at what slots held: sequences that are not at fault begin again. Where none is, the newest
        goes, for what fails without a fault may do so for ever."""
        at_fault = [outcome for outcome in _largest_only(outcomes) if outcome.error is not None]
        if not at_fault:
            newest = max(self.sequences, key=lambda sequence: sequence.request_id)
            error = RequestError("a step of it failed in company, and again alone it did not; ask again")
            at_fault = [SequenceOutcome(newest, Update(newest.request_id), error=error)]
        gone, everyone = {outcome.sequence.request_id for outcome in at_fault}, self.sequences
        self.sequences = [one for one in everyone if one.request_id not in gone]
        refused = self.restart() if self.sequences else []
        self.sequences += [one for one in everyone if one.request_id in gone]  # to leave with the others
        named = {outcome.sequence.request_id for outcome in (*at_fault, *refused)}
        others = [one for one in everyone if one.request_id not in named]
        return [*at_fault, *refused, *(SequenceOutcome(one, Update(one.request_id)) for one in others)]


def _outcomes(state: State, output: StepOutput, sequences: abc.Sequence[Sequence]) -> list[SequenceOutcome]:
    """What a step did to the sequences of a state; those whose text holds a stop text end.

    Where tokens are watched, this waits for the device, and sees who is done now. Where none are, it does not wait: who
    was done before the step is known, and whoever it completed is seen after the next one."""
    policy = state.policy
    faults = dict(policy.calls.faults) if isinstance(policy, PerSequencePolicy) else {}
    each = len(output.done) // len(sequences)
    _trace(state, output, sequences, each)
    seen = _Seen.of(state, output, sequences)
    settled = _settled(state, seen, sequences, each, faults)
    done, broken = seen.done[::each], seen.broken[::each]
    outcomes = list[SequenceOutcome]()
    for n, sequence in enumerate(sequences):
        if output.done[n * each]:  # before this step: what failed now was not for it
            faults.pop(n, None)
        if broken[n]:
            faults.setdefault(n, not_finite(state.model.dtype))
        if n not in faults:
            try:
                update = sequence.update(state, output, n * each, settled[n], done[n])
                outcomes.append(SequenceOutcome(sequence, update, done[n]))
                continue
            except BaseException as error:
                faults[n] = _fault("telling what a step did", error, state.model.device)
        outcomes.append(SequenceOutcome(sequence, Update(sequence.request_id), error=faults[n]))
    return outcomes


def _completed(state: State | None, sequences: abc.Sequence[Sequence]) -> list[SequenceOutcome]:
    """What became of sequences that were all done before the step."""
    broken = [False] * len(sequences) if state is None else state.sequences.broken.tolist()
    each = len(broken) // max(len(sequences), 1)
    return [
        SequenceOutcome(one, Update(one.request_id), error=not_finite(state.model.dtype))
        if state is not None and broken[n * each]
        else SequenceOutcome(one, Update(one.request_id), last=True)
        for n, one in enumerate(sequences)
    ]


def _failed(sequence: Sequence, what: str, error: BaseException, device: torch.device) -> SequenceOutcome:
    """A sequence that `error` ends; raised again where it ends everything."""
    return SequenceOutcome(sequence, Update(sequence.request_id), error=_fault(what, error, device))


def _fault(what: str, error: BaseException, device: torch.device) -> DkvError:
    if must_stop(error, device):
        raise error
    return failure(what, error)


def _largest_only(outcomes: list[SequenceOutcome]) -> list[SequenceOutcome]:
    """Of those that found no memory, the longest fails, of equals the newest; the others try again at the next step."""
    short = {id(o.sequence): o.sequence for o in outcomes if o.error is not None and _no_memory(o.error)}
    worst = max(short.values(), key=lambda sequence: (sequence.length, sequence.request_id), default=None)
    return [
        SequenceOutcome(o.sequence, Update(o.sequence.request_id))
        if id(o.sequence) in short and o.sequence is not worst
        else o
        for o in outcomes
    ]


def _trace(state: State, output: StepOutput, sequences: abc.Sequence[Sequence], each: int) -> None:
    if not any(sequence.request.trace for sequence in sequences):
        return
    committed = output.committed.nonzero().tolist()
    for n, sequence in enumerate(sequences):
        if sequence.request.trace and not output.done[n * each]:
            sequence.add_step([p for r, p in committed if r == n * each], state.canvas.tokens[n * each])


@dataclass(frozen=True)
class _Seen:
    """What the host looks at after a step, fetched at once. B rows, T positions."""

    done: list[bool]
    """[B] finished."""
    broken: list[bool]
    """[B] had logits that were not finite."""
    tokens: list[list[int]] | None
    """[B][T] token ids; None where no sequence is watched."""
    unfixed: list[list[bool]] | None
    """[B][T] positions still to be committed."""

    @classmethod
    def of(cls, state: State, output: StepOutput, sequences: abc.Sequence[Sequence]) -> _Seen:
        """That of a state."""
        if not any(sequence.watched for sequence in sequences):
            return cls(output.done, output.broken, None, None)
        flags = torch.stack((state.sequences.done, state.sequences.broken))
        canvas, (batch, width) = state.canvas, state.sequences.shape
        parts = (flags.flatten().long(), canvas.tokens.flatten(), canvas.unfixed.flatten().long())
        values: list[int] = torch.cat(parts).tolist()
        rows = [values[start : start + width] for start in range(2 * batch, len(values), width)]
        unfixed = [[bool(x) for x in row] for row in rows[batch:]]
        return cls(
            [bool(x) for x in values[:batch]], [bool(x) for x in values[batch : 2 * batch]], rows[:batch], unfixed
        )


def _settled(
    state: State, seen: _Seen, sequences: abc.Sequence[Sequence], each: int, faults: dict[int, DkvError]
) -> list[list[int] | None]:
    """The final beginning of each response that the host looks at; ends those that hold a stop text. One whose text
    cannot be had is at fault."""
    if seen.tokens is None or seen.unfixed is None:
        return [None] * len(sequences)
    ended = [False] * len(seen.done)
    settled: list[list[int] | None] = []
    for n, sequence in enumerate(sequences):
        row = n * each
        known = sequence.settled(seen.tokens[row], seen.unfixed[row])
        settled.append(known)
        try:
            ended[row] = sequence.text.find_stop(known) is not None
        except BaseException as error:
            faults[n] = _fault("looking for a stop text", error, state.model.device)
        ended[row] = ended[row] and not seen.done[row]
        seen.done[row] |= ended[row]
    if any(ended):
        finish(state, torch.tensor(ended, device=state.model.device))
    return settled


def _no_memory(error: DkvError) -> bool:
    return is_memory(RuntimeError(str(error))) or "MemoryError" in str(error)
