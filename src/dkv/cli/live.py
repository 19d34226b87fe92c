"""What changes on the terminal while a command runs: a line of progress; or the live view, the canvas after each step
and which of its positions were recomputed or served from the cache.

The shape of a mark tells the token's state and its filling where the keys and values came from, so that nothing rests
on colour alone.
"""

from __future__ import annotations

import io
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.text import Text

from dkv.cli.console import printable, stderr_console
from dkv.errors import SettingError
from dkv.storage.atomic import placed

if TYPE_CHECKING:
    from dkv.lm import DiffusionLM
    from dkv.outputs import Frame

__all__ = ["View", "keeping", "region", "save_picture", "telling", "watch"]

_STATES = ("committed", "provisional", "masked")
_STYLES = {"committed": "bold green", "provisional": "italic yellow", "masked": "blue"}
_UNICODE = {"committed": "■□", "provisional": "◆◇", "masked": "●○", "mask": "·", "line": "↵", "end": "∎"}
_ASCII = {"committed": "Cc", "provisional": "Pp", "masked": "Mm", "mask": ".", "line": "/", "end": "_"}
_PER_LINE = 64
_PICTURE_WIDTH = 96
_SECONDS_A_DRAWING = 1 / 15


@dataclass(frozen=True)
class View:
    """Draws frames of one generation. lm: decodes tokens; prompt: shown on top; cache: the spec as given; unicode:
    whether the marks may be others than letters."""

    lm: DiffusionLM
    prompt: str
    cache: str
    unicode: bool = True

    def draw(self, frame: Frame) -> Group:
        """The whole picture of a step."""
        prompt = Text(f"prompt: {' '.join(printable(self.prompt).split())}", no_wrap=True, overflow="ellipsis")
        canvas = Panel(self._canvas(frame), title="response", title_align="left")
        rows = Panel(self._map(frame), title="positions", title_align="left")
        # What changes its height comes last: the rest stands still, and is not what a low terminal cuts off.
        return Group(prompt, self._counts(frame), self._legend(), rows, canvas)

    def _canvas(self, frame: Frame) -> Text:
        """The tokens as text; what was recomputed is underlined."""
        text = Text()
        for (state, computed), run in groupby(_positions(frame), key=itemgetter(1, 2)):
            pieces = [self._piece(token, state) for token, _, _ in run]
            text.append("".join(pieces), _STYLES[state] + (" underline" if computed else ""))
        return text

    def _piece(self, token: int, state: str) -> str:
        """One position in print. Only a committed line end breaks the line, or the picture would jump about."""
        if state == "masked":
            return self.marks["mask"]
        tokenizer = self.lm.tokenizer
        piece = f"{token} " if tokenizer is None else printable(tokenizer.decode([token]))
        line = self.marks["line"] + ("\n" if state == "committed" else "")
        return piece.replace("\r", "").replace("\n", line) or self.marks["end"]

    def _map(self, frame: Frame) -> Text:
        """One mark a position, in lines of equal length."""
        kinds = [(state, computed) for _, state, computed in _positions(frame)]
        lines = []
        for first in range(0, len(kinds), _PER_LINE):
            line = Text().append(f"{first:>5} ", "dim")
            # Runs, not marks: a colour change is ten bytes, and there may be thousands of positions.
            for kind, run in groupby(kinds[first : first + _PER_LINE]):
                line.append(self._marks(*kind, count=len(list(run))))
            lines.append(line)
        return Text("\n").join(lines)

    def _marks(self, state: str, computed: bool, count: int = 1) -> Text:
        return Text(self.marks[state][0 if computed else 1] * count, _STYLES[state] + ("" if computed else " dim"))

    def _counts(self, frame: Frame) -> Text:
        length, fixed, rows = len(frame.token_ids), sum(frame.committed), sum(frame.computed)
        return Text(
            f"step {frame.step + 1}: {fixed} of {length} committed; recomputed {rows} of {length} response rows "
            f"and {frame.prompt_computed or 'no'} prompt rows; {self.cache}"
        )

    def _legend(self) -> Text:
        text = Text()
        for state in _STATES:
            for computed, origin in ((True, "recomputed"), (False, "from the cache")):
                text.append(self._marks(state, computed)).append(f" {state + ', ' + origin:<32}")
            text.append("\n")
        end = self.marks["end"]
        return text.append(f"in the text: bold committed, italic provisional, underlined recomputed, {end} end-of-text")

    @cached_property
    def marks(self) -> dict[str, str]:
        """The characters to draw with."""
        return _UNICODE if self.unicode else _ASCII


def _positions(frame: Frame) -> Iterator[tuple[int, str, bool]]:
    """Token, state, and whether it was recomputed, for each position of the response."""
    for token, fixed, maybe, computed in zip(
        frame.token_ids, frame.committed, frame.provisional, frame.computed, strict=True
    ):
        yield token, "committed" if fixed else "provisional" if maybe else "masked", computed


def watch(frames: Iterable[Frame], view: View, console: Console | None, keep: bool) -> list[Frame]:
    """Run through the frames, shown on `console` as they come where that is a terminal; the drawing is gone afterwards.

    Returns all of them with `keep`, else the last: thousands of long ones fill the memory.
    """
    seen: list[Frame] = []
    if console is not None:
        view = replace(view, unicode=console.encoding.startswith("utf"))
    with region(console) as show:
        drawn = -_SECONDS_A_DRAWING
        for frame in frames:
            if not keep:
                seen.clear()
            seen.append(frame)
            # Drawing costs about as much as a step of a small model, and nobody sees more pictures than these.
            if show is not None and time.monotonic() - drawn >= _SECONDS_A_DRAWING:
                show(view.draw(frame))
                drawn = time.monotonic()
    return seen


def save_picture(path: Path, view: View, frames: Sequence[Frame]) -> None:
    """Draw the most telling frame into `path`. Raises SettingError where it cannot be written."""
    console = Console(
        record=True,
        file=io.StringIO(),
        width=_PICTURE_WIDTH,
        force_terminal=True,
        color_system="truecolor",
        no_color=False,
    )
    console.print(view.draw(_telling(frames)))
    picture = console.export_svg(title="dkv generate --live", unique_id="dkv-live")
    # rich's picture loads a font from the network; a reader's own monospace font does as well.
    picture = re.sub(r"@font-face \{.*?\}\s*", "", picture, flags=re.DOTALL)
    try:
        with placed(path) as part:
            part.write_text(picture, encoding="utf-8")
    except OSError as error:
        raise SettingError(f"svg={str(path)!r}: cannot be written ({error.strerror}); choose another path") from None


def _telling(frames: Sequence[Frame]) -> Frame:
    """The frame nearest the middle in which something came from the cache; a refresh would show nothing of it."""
    middle = len(frames) // 2
    cached = [at for at, frame in enumerate(frames) if not all(frame.computed)]
    return frames[min(cached, key=lambda at: abs(at - middle), default=middle)]


@contextmanager
def keeping(kept: Callable[[], str]) -> Iterator[None]:
    """A run that can be gone on with: Ctrl-C says what was kept, and then ends as it always does."""
    try:
        yield
    except KeyboardInterrupt:
        print(printable(f"stopped; {kept()}; the same command goes on from there"), file=sys.stderr)
        raise


@contextmanager
def region(console: Console | None) -> Iterator[Callable[[RenderableType], None] | None]:
    """A place on the terminal that is redrawn; None where there is no terminal that can."""
    if console is None or not console.is_terminal or console.is_dumb_terminal:
        yield None
        return
    # No refresh thread: it would compete with the model, and Ctrl-C has one place less to land.
    with Live(
        console=console, transient=True, auto_refresh=False, redirect_stdout=False, redirect_stderr=False
    ) as live:
        yield lambda picture: live.update(picture, refresh=True)


@contextmanager
def telling() -> Iterator[Callable[[str], None]]:
    """What takes a line of progress now and then; it is shown on a terminal only."""
    with region(stderr_console()) as show:
        yield lambda note: None if show is None else show(printable(note))
