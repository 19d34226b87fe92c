"""After a step: what it did to each sequence, as updates; and why some must leave."""

from __future__ import annotations

from collections import abc
from dataclasses import dataclass

import torch

from dkv.core.loop import State, StepOutput, finish, not_finite
from dkv.engine.per_sequence import PerSequencePolicy
from dkv.engine.request import Update
from dkv.engine.request_errors import failure, is_memory, must_stop
from dkv.engine.sequence import Sequence, SequenceOutcome
from dkv.errors import DkvError
from dkv.outputs import Frame

__all__ = ["completed", "count", "failed", "largest_only", "outcomes_of"]


def outcomes_of(state: State, output: StepOutput, sequences: abc.Sequence[Sequence]) -> list[SequenceOutcome]:
    """What a step did to the sequences of a state; those whose text holds a stop text end.

    Where tokens are watched, this waits for the device, and sees who is done now. Where none are, it does not wait: who
    was done before the step is known, and whoever it completed is seen after the next one."""
    policy = state.policy
    faults = dict(policy.calls.faults) if isinstance(policy, PerSequencePolicy) and policy.calls else {}
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
                update = _update(state, output, n * each, sequence, settled[n], done[n])
                outcomes.append(SequenceOutcome(sequence, update, done[n]))
                continue
            except BaseException as error:
                faults[n] = _error(state, "telling what a step did", error)
        outcomes.append(SequenceOutcome(sequence, Update(sequence.request_id), error=faults[n]))
    return outcomes


def completed(state: State | None, sequences: abc.Sequence[Sequence]) -> list[SequenceOutcome]:
    """What became of sequences that were all done before the step."""
    broken = [False] * len(sequences) if state is None else state.sequences.broken.tolist()
    each = len(broken) // max(len(sequences), 1)
    return [
        SequenceOutcome(one, Update(one.request_id), error=not_finite(state.model.dtype))
        if state is not None and broken[n * each]
        else SequenceOutcome(one, Update(one.request_id), last=True)
        for n, one in enumerate(sequences)
    ]


def count(output: StepOutput, sequences: abc.Sequence[Sequence]) -> None:
    """Count what a step computed for each sequence, its unconditional row included."""
    each = len(output.done) // len(sequences)
    for n, sequence in enumerate(sequences):
        rows = slice(n * each, (n + 1) * each)
        sequence.count(output.counts[rows.start], sum(output.work[rows]), sum(output.lengths[rows]))


def failed(sequence: Sequence, what: str, error: BaseException, device: torch.device) -> SequenceOutcome:
    """A sequence that `error` ends; raised again where it ends everything."""
    if must_stop(error, device):
        raise error
    return SequenceOutcome(sequence, Update(sequence.request_id), error=failure(what, error))


def largest_only(outcomes: list[SequenceOutcome]) -> list[SequenceOutcome]:
    """Of those that found no memory, the longest fails, of equals the newest; the others try again at the next step."""
    short = {id(o.sequence): o.sequence for o in outcomes if o.error is not None and _no_memory(o.error)}
    worst = max(short.values(), key=lambda sequence: (sequence.length, sequence.request_id), default=None)
    return [
        SequenceOutcome(o.sequence, Update(o.sequence.request_id))
        if id(o.sequence) in short and o.sequence is not worst
        else o
        for o in outcomes
    ]


def _frame_of(state: State, output: StepOutput, row: int, sequence: Sequence) -> Frame:
    """What the sequence in `row` looks like after a step."""
    response = sequence.response
    tokens = state.canvas.tokens[row].clone()
    committed = ~state.canvas.unfixed[row]
    provisional = torch.zeros_like(committed)
    if output.predictions is not None:
        candidates = output.predictions.spread(output.predictions.token, -1)[row]
        provisional = (candidates >= 0) & ~committed
        tokens = torch.where(provisional, candidates, tokens)
    ids: list[int] = tokens[response].tolist()
    fixed: list[bool] = committed[response].tolist()
    return Frame(
        step=int(output.step.num_forwards[row]),
        token_ids=ids,
        committed=fixed,
        provisional=provisional[response].tolist(),
        computed=output.rows[row, response].tolist(),
        prompt_computed=int(output.rows[row, : response.start].sum()),
        text=sequence.text.decode(ids),
        committed_text=sequence.text.decode_committed(ids, fixed),
    )


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
            faults[n] = _error(state, "looking for a stop text", error)
        ended[row] = ended[row] and not seen.done[row]
        seen.done[row] |= ended[row]
    if any(ended):
        finish(state, torch.tensor(ended, device=state.model.device))
    return settled


def _update(
    state: State, output: StepOutput, row: int, sequence: Sequence, settled: list[int] | None, done: bool
) -> Update:
    frame = None
    if sequence.request.frames and sequence.repeated_frames:  # sent before it began again
        sequence.repeated_frames -= 1
    elif sequence.request.frames:
        frame = _frame_of(state, output, row, sequence)
        sequence.frames += 1
    ids, text = ((), "") if done or settled is None else sequence.text.grow(settled)
    return Update(sequence.request_id, ids, text, frame)


def _error(state: State, what: str, error: BaseException) -> DkvError:
    if must_stop(error, state.model.device):
        raise error
    return failure(what, error)


def _no_memory(error: DkvError) -> bool:
    return is_memory(RuntimeError(str(error))) or "MemoryError" in str(error)
