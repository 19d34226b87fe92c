"""What a tuning leaves behind: the settings for `cache="auto"`, and the figure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dkv.checkpoints.tuned_settings import Tuned, tuned_path
from dkv.errors import SettingError
from dkv.lab.common.charts import Chart, Panel, Series
from dkv.lab.tune.budget import Budget
from dkv.lab.tune.race import Trial
from dkv.lab.tune.tune_session import Attempt, Outcomes
from dkv.lm import DiffusionLM
from dkv.storage.atomic import write_whole
from dkv.version import VERSION

__all__ = ["draw", "front", "keep", "tradeoff"]


def keep(lm: DiffusionLM, attempt: Attempt, budget: Budget) -> Path | None:
    """Keep the settings for this checkpoint: where, or None for a model without a directory. Raises SettingError."""
    if lm.directory is None:
        return None
    setting, loss = attempt.trial.setting, attempt.trial.loss
    tuned = Tuned(
        setting.cache, setting.decoder, str(budget), attempt.upper, loss.count, attempt.speedup, VERSION,
        setting.block_length,
    )  # fmt: skip
    path = tuned_path(lm.directory, lm.quantize)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingError(f"{str(path.parent)!r} cannot be made ({error.strerror}); set DKV_HOME to another") from None
    write_whole(path, tuned.text().encode())
    return path


def draw(outcomes: Outcomes, budget: Budget, path: Path) -> bool:
    """Write the figure; False without matplotlib. Raises SettingError."""
    try:
        from dkv.lab.common.plots import png
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "matplotlib":
            raise
        return False
    write_whole(path, png(tradeoff(outcomes, budget)))
    return True


def front(trials: Sequence[Trial], budget: Budget) -> list[Trial]:
    """The settings that no other beats in both cost and loss, the cheapest first."""
    best: list[Trial] = []
    for trial in sorted(trials, key=lambda t: (t.cost, budget.estimate(t.loss))):
        if not best or budget.estimate(trial.loss) < budget.estimate(best[-1].loss):
            best.append(trial)
    return best


def tradeoff(outcomes: Outcomes, budget: Budget) -> Chart:
    """Each setting's loss over how many times cheaper than no cache it is; the front joined, the budget a line."""
    trials = outcomes.trials
    reference = next(t for t in trials if t.setting == outcomes.reference.setting)
    chosen = None if outcomes.chosen is None else outcomes.chosen.trial.setting
    grey = "#444444"

    def series(name: str, some: Sequence[Trial], style: str = "", colour: str | None = None, mark: str | None = None,
               size: float = 6) -> Series:  # fmt: skip
        times, losses = [reference.cost / t.cost for t in some], [100 * budget.estimate(t.loss) for t in some]
        return Series(name, losses, times, style=style, colour=colour, mark=mark, size=size, hollow=size > 6)

    lines = [
        series(decoder, [t for t in trials if t.setting.decoder == decoder])
        for decoder in dict.fromkeys(t.setting.decoder for t in trials)
    ]
    lines.append(series("no setting beats these in both", front(trials, budget), "-", grey, ""))
    if picked := [t for t in trials if t.setting == chosen]:
        lines.append(series("chosen", picked[:1], colour="#000000", mark="o", size=15))
    what = "answers changed (%)" if budget.kind == "changed" else "accuracy lost (points)"
    panel = Panel(
        "times cheaper than no cache, one token a step (rows and forwards)",
        f"{what}, as many examples as each had in the race",
        series=lines,
        log_x=True,
        levels={100 * budget.limit: f"budget: {budget}"},
    )
    return Chart("", [panel], size=(7.6, 4.2))
