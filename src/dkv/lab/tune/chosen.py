"""What a tuning leaves behind: the settings for `cache="auto"`, and the figure."""

from __future__ import annotations

from pathlib import Path

from dkv.checkpoints.tuned_settings import Tuned, tuned_path
from dkv.errors import SettingError
from dkv.lab.tune.budget import Budget
from dkv.lab.tune.tune_session import Attempt, Outcomes
from dkv.lm import DiffusionLM
from dkv.storage.atomic_file import write_whole
from dkv.version import installed_version

__all__ = ["draw", "keep"]


def keep(lm: DiffusionLM, attempt: Attempt, budget: Budget) -> Path | None:
    """Keep the settings for this checkpoint: where, or None for a model without a directory. Raises SettingError."""
    if lm.directory is None:
        return None
    setting, loss = attempt.trial.setting, attempt.trial.loss
    tuned = Tuned(
        setting.cache, setting.decoder, str(budget), attempt.upper, loss.count, attempt.speedup, installed_version(),
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
    from io import BytesIO

    try:
        from dkv.lab.tune.tune_plot import figure
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "matplotlib":
            raise
        return False
    chosen = None if outcomes.chosen is None else outcomes.chosen.trial.setting
    reference = next(t for t in outcomes.trials if t.setting == outcomes.reference.setting)
    picked = next((t for t in outcomes.trials if t.setting == chosen), None)
    drawn, image = figure(outcomes.trials, reference, budget, picked), BytesIO()
    drawn.savefig(image, format="png", dpi=150)
    write_whole(path, image.getvalue())
    return True
