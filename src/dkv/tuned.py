"""Settings that `dkv tune` found, kept for each checkpoint, so that `cache="auto"` finds them.

They lie in the directory that DKV_HOME names, or in ~/.cache/dkv, under the checkpoint's fingerprint.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from dkv.errors import SettingError
from dkv.fingerprint import fingerprint

__all__ = ["AUTO", "Tuned", "find_tuned", "tuned_path"]

AUTO = "auto"
"""The cache spec that asks for them."""

_FORMAT = "dkv-tuned 1"


@dataclass(frozen=True)
class Tuned:
    """cache, decoder: specs. budget: what they were held to; upper: the most that they lose, at 95%, on so many
    examples; speedup: in rows and forwards, against no cache; version: of dkv."""

    cache: str
    decoder: str
    budget: str
    upper: float
    examples: int
    speedup: float
    version: str

    def text(self) -> str:
        """As it is kept."""
        return json.dumps({"format": _FORMAT, **asdict(self)}, indent=2) + "\n"


def tuned_path(directory: Path, quantize: str | None = None) -> Path:
    """Where the settings of the checkpoint in `directory` are kept: those for packed weights apart. Raises OSError."""
    home = os.environ.get("DKV_HOME")
    root = Path(home) if home else Path.home() / ".cache" / "dkv"
    return root / "tuned" / f"{fingerprint(directory)}{'' if quantize is None else f'.{quantize}'}.json"


def find_tuned(directory: Path | None, model: str, quantize: str | None = None) -> Tuned:
    """The settings kept for a checkpoint. Raises SettingError where there are none, or the file is damaged."""
    if directory is None:
        raise SettingError("cache='auto': this model was not loaded from a directory, so nothing is kept for it")
    path = tuned_path(directory, quantize)
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        asked = model if quantize is None else f"{model} --quantize {quantize}"
        raise SettingError(
            f"cache='auto': nothing was tuned for this model yet; run dkv tune --model {asked}"
        ) from None
    except (OSError, ValueError) as error:
        raise SettingError(f"cache='auto': {str(path)!r} cannot be read ({error}); delete it, and tune again") from None
    if not isinstance(kept, dict) or kept.pop("format", None) != _FORMAT or set(kept) != set(Tuned.__annotations__):
        raise SettingError(f"cache='auto': {str(path)!r} holds no settings; delete it, and tune again")
    return Tuned(**kept)
