"""Settings that `dkv tune` found, kept for each checkpoint, so that `cache="auto"` finds them.

They lie in the directory that DKV_HOME names, or in ~/.cache/dkv, under the checkpoint's fingerprint.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import UnionType

from dkv.checkpoints.weight_files import fingerprint
from dkv.errors import SettingError

__all__ = ["AUTO", "Tuned", "find_tuned", "kept_for", "tuned_path"]

AUTO = "auto"
"""The cache spec that asks for them."""

_FORMAT = "dkv-tuned 1"
_KINDS: dict[str, type | UnionType] = {
    "cache": str, "decoder": str, "budget": str, "upper": int | float, "examples": int, "speedup": int | float,
    "version": str, "block_length": int | None,
}  # fmt: skip


@dataclass(frozen=True)
class Tuned:
    """Settings, and how they were found."""

    cache: str
    decoder: str
    budget: str  # what they were held to
    upper: float  # the most that they lose, at 95%
    examples: int  # on which that was measured
    speedup: float  # in rows and forwards, against no cache
    version: str  # of dkv
    block_length: int | None = None  # by how many positions the canvas grew, None = it was whole

    def text(self) -> str:
        """As it is kept."""
        return json.dumps({"format": _FORMAT, **asdict(self)}, indent=2) + "\n"


_SHIPPED = Path(__file__).parents[1] / "tiny" / "tuned"
"""Settings that come with the embedded models."""


def tuned_path(directory: Path, quantize: str | None = None) -> Path:
    """Where the settings of the checkpoint in `directory` are kept: those for packed weights apart. Raises OSError."""
    home = os.environ.get("DKV_HOME")
    root = Path(home) if home else Path.home() / ".cache" / "dkv"
    return root / "tuned" / f"{fingerprint(directory)}{'' if quantize is None else f'.{quantize}'}.json"


def find_tuned(directory: Path | None, model: str, quantize: str | None = None) -> Tuned:
    """The settings kept for a checkpoint. Raises SettingError where there are none, or the file is damaged."""
    if directory is None:
        raise SettingError("cache='auto': this model was not loaded from a directory, so nothing is kept for it")
    found = kept_for(directory, quantize)
    if found is None:
        asked = model if quantize is None else f"{model} --quantize {quantize}"
        raise SettingError(f"cache='auto': nothing was tuned for this model yet; run dkv tune --model {asked}")
    return found


def kept_for(directory: Path, quantize: str | None = None) -> Tuned | None:
    """The settings kept for a checkpoint: those that were tuned on this machine, else those that come with an embedded
    model; None where there are none. Raises SettingError where the file is damaged, and OSError."""
    path = tuned_path(directory, quantize)
    for place in (path, _SHIPPED / path.name):
        try:
            kept = json.loads(place.read_text(encoding="utf-8"))
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            raise SettingError(
                f"cache='auto': {str(place)!r} cannot be read ({error}); delete it, and tune again"
            ) from None
        if not _holds_settings(kept):
            raise SettingError(f"cache='auto': {str(place)!r} holds no settings; delete it, and tune again")
        return Tuned(**{name: value for name, value in kept.items() if name != "format"})
    return None


def _holds_settings(kept: object) -> bool:
    """Whether a JSON value is what `Tuned.text` writes, now or before it had a block length."""
    if not isinstance(kept, Mapping) or kept.get("format") != _FORMAT:
        return False
    known = {"format", *Tuned.__annotations__}
    return known - {"block_length"} <= set(kept) <= known and all(
        isinstance(kept[name], kind) and not isinstance(kept[name], bool)
        for name, kind in _KINDS.items()
        if name in kept
    )
