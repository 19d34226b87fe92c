"""What of a step one policy or decoder sees: copies that it may write on, or some rows alone; and checks of what it
gives back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dkv.core.canvas import Canvas
from dkv.core.policy import Plan, Step
from dkv.core.sampling import Predictions

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

__all__ = ["canvas_copy", "checked", "checked_plan", "read_copy", "read_of", "step_copy", "step_of"]


def canvas_copy(canvas: Canvas) -> Canvas:
    """The same with tensors of its own."""
    return replace(canvas, **_mapped(canvas, Tensor.clone))


def step_copy(step: Step) -> Step:
    """The same with tensors of its own."""
    block = (step.block[0].clone(), step.block[1].clone())
    return replace(step, canvas=canvas_copy(step.canvas), block=block, **_mapped(step, Tensor.clone))


def read_copy(read: Predictions) -> Predictions:
    """The same with tensors of its own."""
    sampling = read.sampling.at(torch.arange(len(read.flat), device=read.flat.device))
    return replace(read, sampling=sampling, **_mapped(read, Tensor.clone))


def step_of(step: Step, rows: Sequence[int]) -> Step:
    """Some rows of a step, which are one sequence, and after it its unconditional row if there is one."""
    index = torch.tensor(rows, device=step.num_forwards.device)
    canvas = step.canvas.gather(index, step.canvas.tokens.shape[1])
    block = (step.block[0][index], step.block[1][index])
    return replace(step, canvas=canvas, block=block, **_mapped(step, lambda x: x[index]))


def _mapped(source: DataclassInstance, change: Callable[[Tensor], Tensor]) -> dict[str, Any]:
    """The fields of a dataclass that are tensors, each changed."""
    values = {part.name: getattr(source, part.name) for part in fields(source)}
    return {name: change(value) for name, value in values.items() if isinstance(value, Tensor)}


def read_of(read: Predictions, rows: Sequence[int]) -> tuple[Predictions, Tensor]:
    """What was read of some rows, numbered from 0; and which entries [m] of the whole these are."""
    batch, width = read.shape
    number = torch.full((batch,), -1, device=read.flat.device)
    number[list(rows)] = torch.arange(len(rows), device=number.device)
    place = number[read.flat // width]
    entries = (place >= 0).nonzero().view(-1)
    flat = place[entries] * width + read.flat[entries] % width
    part = Predictions(
        flat=flat,
        shape=(len(rows), width),
        token=read.token[entries],
        confidence=read.confidence[entries],
        raw=read.raw[entries],
        sampling=read.sampling.at(entries),
    )
    return part, entries


def checked(value: object, name: str, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """What was given back, if it is such a tensor. Raises TypeError, ValueError."""
    if type(value) is not Tensor:
        raise TypeError(f"{name} must be a tensor, not {type(value).__name__}")
    if tuple(value.shape) != shape:
        raise ValueError(f"{name} must have the shape {list(shape)}, not {list(value.shape)}")
    if value.dtype != dtype or value.layout != torch.strided:
        raise TypeError(f"{name} must be a dense tensor of {dtype}, not of {value.dtype} ({value.layout})")
    if value.device != device:
        raise ValueError(f"{name} must be on {device}, not on {value.device}")
    return value


_PARTS = {"visible": 2, "query": 2, "skip_unconditional": 1, "forced": 2, "frozen": 2, "commits": 2}


def checked_plan(plan: object, step: Step) -> Plan:
    """A plan as it was given, in tensors of the right form. Raises TypeError, ValueError."""
    if not isinstance(plan, Plan):
        raise TypeError(f"plan must return a Plan, not {type(plan).__name__}")
    found = {part.name: getattr(plan, part.name) for part in fields(Plan)}
    shape, device = tuple(step.canvas.tokens.shape), step.canvas.tokens.device
    checked(found["rows"], "rows", shape, torch.bool, device)
    for name, depth in _PARTS.items():
        if found[name] is not None:
            checked(found[name], name, shape[:depth], torch.bool, device)
    if found["budget"] is not None:
        found["budget"] = checked(found["budget"], "budget", shape[:1], torch.int64, device).clamp(min=0)
    return Plan(**found)
