"""The live view's pictures: every state and origin has a mark of its own, without colour."""

from __future__ import annotations

import io
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from rich.console import Console

from dkv.cli.live import View, watch
from dkv.core.registry import spec_of
from dkv.lab.common.agreement import agreement
from dkv.outputs import Frame, Generation
from tests.support.cli_fixtures import Cli

FRAME = Frame(
    step=4,
    token_ids=[1, 2, 3, 4, 5, 6],
    committed=[True, True, False, False, False, False],
    provisional=[False, False, True, True, False, False],
    computed=[True, False, True, False, True, False],
    prompt_computed=0,
    text=None,
)


def drawn(view: View, width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(view.draw(FRAME))
    return cast(io.StringIO, console.file).getvalue()


def view_of(pieces: dict[int, str] | None, unicode: bool = True) -> View:
    tokenizer = None if pieces is None else SimpleNamespace(decode=lambda ids: pieces[ids[0]])
    return View(cast(Any, SimpleNamespace(tokenizer=tokenizer)), "2 + 2?\n\x1b[2J", "dkv-decode", unicode)


def test_six_kinds_of_position_have_six_marks() -> None:
    picture = drawn(view_of(None))
    assert "0 ■□◆◇●○" in picture
    for line in ("■ committed, recomputed", "□ committed, from the cache", "○ masked, from the cache"):
        assert line in picture
    assert "0 CcPpMm" in drawn(view_of(None, unicode=False))


def test_counts_and_harmless_text() -> None:
    picture = drawn(view_of({1: "a\n", 2: "", 3: "c\n", 4: "\x1b[31m"}))
    assert "step 5: 2 of 6 committed; recomputed 3 of 6 response rows and no prompt rows" in picture
    assert "prompt: 2 + 2? \\x1b[2J" in picture
    assert "│ a↵ " in picture
    assert "│ ∎c↵\\x1b[31m··" in picture


def test_frames_pass_through_without_a_terminal() -> None:
    console = Console(file=io.StringIO(), force_terminal=False)
    assert watch(iter([FRAME, FRAME]), view_of(None), console, keep=True) == [FRAME, FRAME]
    assert watch(iter([FRAME, FRAME]), view_of(None), console, keep=False) == [FRAME]
    assert cast(io.StringIO, console.file).getvalue() == ""


def test_svg_is_written_and_loads_nothing(cli: Cli, checkpoint: Path, tmp_path: Path) -> None:
    path = tmp_path / "live.svg"
    common = ["generate", "hello", "--model", str(checkpoint), "--gen-length", "16", "--seed", "3"]
    assert cli(*common, "--svg", str(path)).stdout == cli(*common).stdout
    picture = path.read_text(encoding="utf-8")
    assert picture.startswith("<svg")
    assert "□" in picture  # a frame in which something came from the cache
    assert not re.search(r"url\(.?http|@font-face|href=.http", picture)


def test_agreement_reaches_to_the_longer_end() -> None:
    def ended(ids: list[int], end: int) -> Generation:
        return cast(Generation, SimpleNamespace(token_ids=ids, stats=SimpleNamespace(new_tokens=end)))

    assert agreement(ended([1, 2, 3, 0], 3), ended([1, 2, 0, 0], 2)) == 2 / 3
    assert agreement(ended([0, 0], 0), ended([0, 0], 0)) == 1.0


def test_specs_are_spelled_out() -> None:
    class Flagged:
        name = "flagged"

        def __init__(self, on: bool = True, most: int | None = None, share: float = 0.5) -> None:
            self.on, self.most, self.share = on, most, share

    assert spec_of(Flagged()) == "flagged:on=true,share=0.5"
