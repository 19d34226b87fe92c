"""From sampling parameters to the tensors of a batch: schedule and sampling; and back to frames."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from dkv.core.loop import Schedule, State, StepOutput
from dkv.core.sampling import Sampling
from dkv.engine.sequence import Track
from dkv.outputs import Frame
from dkv.params import SamplingParams

__all__ = ["frame_of", "sampling_of", "schedule_of"]


def frame_of(state: State, tick: StepOutput, row: int, track: Track) -> Frame:
    """What the sequence in `row` looks like after `tick`."""
    response = track.response
    tokens = state.canvas.tokens[row].clone()
    committed = ~state.canvas.unfixed[row]
    provisional = torch.zeros_like(committed)
    if tick.predictions is not None:
        candidates = tick.predictions.spread(tick.predictions.token, -1)[row]
        provisional = (candidates >= 0) & ~committed
        tokens = torch.where(provisional, candidates, tokens)
    ids: list[int] = tokens[response].tolist()
    fixed: list[bool] = committed[response].tolist()
    return Frame(
        step=int(tick.step.num_forwards[row]),
        token_ids=ids,
        committed=fixed,
        provisional=provisional[response].tolist(),
        computed=tick.rows[row, response].tolist(),
        prompt_computed=int(tick.rows[row, : response.start].sum()),
        text=track.decode(ids),
        committed_text=track.decode_committed(ids, fixed),
    )


def sampling_of(settings: Sequence[SamplingParams], vocab: int, device: torch.device) -> Sampling:
    """How sequences under `settings` draw their tokens. A filter that keeps everything stands in where only others have
    one; top_p=1 is none, lest rounding drop the tail."""

    def each(values: list[float | None], keeps_all: float) -> torch.Tensor | None:
        if all(value is None for value in values):
            return None
        return torch.tensor([keeps_all if value is None else value for value in values], device=device)

    return Sampling(
        torch.tensor([float(s.temperature) for s in settings], device=device),
        each([None if s.top_p == 1 else s.top_p for s in settings], torch.inf),
        each([s.top_k for s in settings], vocab),
        greedy=all(s.temperature == 0 for s in settings),
    )


def schedule_of(settings: SamplingParams, batch: int, device: torch.device, holed: bool = False) -> Schedule:
    """The schedule of `batch` sequences under `settings`; holed: they have given tokens in the response or after it."""

    def each(value: int) -> torch.Tensor:
        return torch.full((batch,), value, device=device)

    return Schedule(
        each(settings.block_length),
        each(settings.blocks),
        each(settings.steps // settings.blocks),
        adaptive=each(True) if holed else None,
        grows=each(True) if settings.grow else None,
    )
