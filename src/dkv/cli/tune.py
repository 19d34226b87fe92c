"""`dkv tune`: the fastest cache and decoder whose answers stay within a budget, and how sure that is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from dkv.cli import options
from dkv.cli.console import print_json, printable, say_loading
from dkv.cli.live import keeping, telling
from dkv.errors import SettingError
from dkv.params import BLOCK_LENGTH

if TYPE_CHECKING:
    from dkv.lab.tune.budget import Budget
    from dkv.lab.tune.tune_session import Attempt, Outcomes

__all__ = ["tune"]

_BLOCKS = 4
"""Blocks of an answer to a task, at most: as many tokens as the longest of them have several times over."""

_Changed = Annotated[
    float | None, options.numbered("--changed", "Answers that may become another text.", None, "PERCENT")
]
_Lost = Annotated[float | None, options.numbered("--lost", "Accuracy that may be lost. Default: 5.", None, "POINTS")]
_Tasks = Annotated[
    str | None, options.named("--tasks", "Embedded tasks, by commas. Default: words,lists,code.", None, "NAMES")
]
_Prompts = Annotated[
    Path | None, options.placed("--prompts", "A file with one prompt per line, or .jsonl with a field prompt.")
]
_GenLength = Annotated[int, options.counted("--gen-length", "Positions of each answer to --prompts.")]
_Count = Annotated[int, options.counted("--count", "Examples of each task for the race.")]
_HeldOut = Annotated[int, options.counted("--held-out", "Further examples of each task, for the bound.")]
_Caches = Annotated[
    list[str] | None, options.named("--cache", "A cache to try; may be repeated. Default: all.", None, "SPEC")
]
_Decoders = Annotated[list[str] | None, options.named("--decoder", "A decoder to try; may be repeated.", None, "SPEC")]
_BlockLength = Annotated[int, options.counted("--block-length", "Positions that the canvas grows by.")]
_Grow = Annotated[
    bool, options.switch("--grow/--no-grow", "Tune on a canvas that grows, as `dkv serve` has it, or on a whole one.")
]
_Seed = Annotated[int, options.counted("--seed", "Seed of all random choices.")]
_Out = Annotated[Path, options.placed("--out", "Answers, figure and settings; what is there is kept.", None, "DIR")]


def tune(
    model: options.Model = "tiny",
    changed: _Changed = None,
    lost: _Lost = None,
    tasks: _Tasks = None,
    prompts: _Prompts = None,
    gen_length: _GenLength = 64,
    count: _Count = 32,
    held_out: _HeldOut = 100,
    cache: _Caches = None,
    decoder: _Decoders = None,
    block_length: _BlockLength = BLOCK_LENGTH,
    grow: _Grow = True,
    seed: _Seed = 0,
    out: _Out = Path("dkv-tune"),
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    quantize: options.Quantize = None,
    compile: options.Compile = False,  # noqa: A002 - named as its option
    as_json: options.Json = False,
) -> None:
    """Find the fastest cache and decoder within a budget.

    The budget is accuracy that may be lost, or answers that may change. `dkv generate --cache auto` uses what is found.
    """
    if changed is not None and lost is not None:
        raise SettingError("changed and lost exclude each other; give one of them")
    say_loading(model, as_json)
    import dkv
    from dkv.lab.common.lab_prompts import suites_of
    from dkv.lab.tune.budget import Budget
    from dkv.lab.tune.chosen import draw, keep
    from dkv.lab.tune.race import CACHES, DECODERS
    from dkv.lab.tune.tune_session import TuneSession, TuningPlan

    budget = (
        Budget("lost", (5 if lost is None else lost) / 100) if changed is None else Budget("changed", changed / 100)
    )
    block, length = _canvas(block_length, grow, None if prompts is None else gen_length)
    plan = TuningPlan(
        budget, count, min(8, count), held_out, caches=tuple(cache or CACHES), decoders=tuple(decoder or DECODERS),
        block_length=block, gen_length=length,
    )  # fmt: skip
    suites = suites_of(tasks, prompts, gen_length, count + held_out, budget)
    for spec in plan.caches:
        dkv.caches.make_cache(spec)  # a misspelled one should not cost the loading
    for spec in plan.decoders:
        dkv.decoders.make_decoder(spec)
    lm = dkv.load(model, device=device, dtype=dtype, quantize=quantize, compile=compile)
    out.mkdir(parents=True, exist_ok=True)
    session = TuneSession(lm, suites, plan, seed, out / "answers.jsonl")
    with session.store, keeping(lambda: f"{len(session.store)} results are kept in {out}"), telling() as tell:
        outcomes = session.run(tell)
    draw(outcomes, budget, out / "tune.png")
    kept = None if outcomes.chosen is None else keep(lm, outcomes.chosen, budget)
    if as_json:
        print_json(_json(outcomes, budget, kept))
    else:
        _print(outcomes, budget, kept, out)


def _canvas(block_length: int, grow: bool, gen_length: int | None) -> tuple[int | None, int | None]:
    """By how many positions the canvas grows, and how far: as far as answers to prompts may go, or several blocks for
    tasks. None and None for a canvas that does not grow. Raises SettingError."""
    if block_length < 1:
        raise SettingError(f"block_length={block_length} must be a whole number of at least 1")
    if not grow:
        return None, None
    if gen_length is None:
        return block_length, _BLOCKS * block_length
    block = min(block_length, gen_length)
    return block, -(-gen_length // block) * block if block > 0 else gen_length


def _print(outcomes: Outcomes, budget: Budget, kept: Path | None, out: Path) -> None:
    examples = outcomes.reference.loss.count
    print(printable(f"budget: {budget}, at 95%, measured on {examples} held-out examples"))
    for attempt in outcomes.attempts:
        print(printable(_line(attempt, budget)))
    if kept is None:
        print("no setting passed, nothing was kept; try more examples (--held-out), or a larger budget")
    else:
        print(printable(f"kept for this model: use --cache auto ({kept})"))
    if (out / "tune.png").exists():  # without matplotlib there is none
        print(printable(f"figure: {out / 'tune.png'}"))


def _line(attempt: Attempt, budget: Budget) -> str:
    setting, loss = attempt.trial.setting, attempt.trial.loss
    what = f"{loss.changed} changed" if budget.kind == "changed" else f"{loss.lost} lost, {loss.gained} gained"
    line = (
        f"{'passes' if attempt.passed else 'fails '} --cache {setting.cache} --decoder {setting.decoder}: "
        f"{attempt.speedup:.2f} times cheaper; {what} of {loss.count}, "
        f"at most {100 * attempt.upper:.1f} {'%' if budget.kind == 'changed' else 'points'}"
    )
    if attempt.passed or attempt.needed is None:
        return line
    return f"{line}; {attempt.needed} examples like these would tell"


def _json(outcomes: Outcomes, budget: Budget, kept: Path | None) -> dict[str, Any]:
    from dataclasses import asdict

    chosen = outcomes.chosen
    return {
        "budget": str(budget),
        "chosen": None if chosen is None else asdict(chosen),
        "attempts": [asdict(attempt) for attempt in outcomes.attempts],
        "trials": [asdict(trial) for trial in outcomes.trials],
        "kept": None if kept is None else str(kept),
    }
