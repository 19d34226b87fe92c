"""A frame of the live view as an SVG picture, for documents."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from dkv.errors import SettingError

if TYPE_CHECKING:
    from dkv.cli.live import View
    from dkv.outputs import Frame

__all__ = ["save_picture"]

_WIDTH = 96


def save_picture(path: Path, view: View, frames: Sequence[Frame]) -> None:
    """Draw the most telling frame into `path`. Raises SettingError where it cannot be written."""
    console = Console(
        record=True, file=io.StringIO(), width=_WIDTH, force_terminal=True, color_system="truecolor", no_color=False
    )
    console.print(view.draw(_telling(frames)))
    picture = console.export_svg(title="dkv generate --live", unique_id="dkv-live")
    # rich's picture loads a font from the network; a reader's own monospace font does as well.
    picture = re.sub(r"@font-face \{.*?\}\s*", "", picture, flags=re.DOTALL)
    part = path.with_name(path.name + ".part")
    try:
        part.write_text(picture, encoding="utf-8")
        part.replace(path)
    except OSError as error:
        raise SettingError(f"svg={str(path)!r}: cannot be written ({error.strerror}); choose another path") from None


def _telling(frames: Sequence[Frame]) -> Frame:
    """The frame nearest the middle in which something came from the cache; a refresh would show nothing of it."""
    middle = len(frames) // 2
    cached = [at for at, frame in enumerate(frames) if not all(frame.computed)]
    return frames[min(cached, key=lambda at: abs(at - middle), default=middle)]
