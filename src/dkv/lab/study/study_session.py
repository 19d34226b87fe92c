"""One `dkv study`: which cells are missing, what was measured, each kept at once, and what follows from all of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dkv.errors import SettingError
from dkv.lab.bench.instruments import environment_of
from dkv.lab.common.html import Picture
from dkv.lab.common.plots import png
from dkv.lab.eval.questions import digest
from dkv.lab.study.base import Cell, Effort, Record, Study
from dkv.lab.study.context import Kit
from dkv.lab.study.study_page import Finished, page, verdicts
from dkv.loading import find_device
from dkv.storage.atomic import write_whole
from dkv.storage.jsonl import Store, StoreFormat

__all__ = ["StudySession"]

_RECORDS = StoreFormat("dkv-study 1", "dkv study", "give another directory")


class StudySession(ExitStack):
    """Studies about to run, or interrupted and about to go on; their files, one each, belong to this run alone until it
    is closed. A context manager. command: as it was typed, for the files and the page.

    Raises SettingError where a file was made with another model, device, dtype, seed or version, or another run has
    it, what `load` raises for a model, and OSError.
    """

    def __init__(self, studies: Sequence[Study], effort: Effort, kit: Kit, out: Path, command: str) -> None:
        if effort.count < 1:
            raise SettingError(f"count={effort.count} must be a whole number of at least 1")
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SettingError(f"out={str(out)!r} cannot be a directory ({error.strerror}); give another") from None
        super().__init__()
        self._studies, self._kit, self._out = studies, kit, out
        self._cells = {study.name: list(study.cells(effort)) for study in studies}
        noted, common = {"command": command, "effort": asdict(effort)}, kit.common()
        self._facts: dict[str, Any] = {**noted, **common}
        self._stores: dict[str, Store] = {}
        with ExitStack() as opened:  # closed where one of them cannot be had
            for study in studies:
                store = Store(out / f"{study.name}.jsonl", common, _RECORDS, noted)
                self._stores[study.name] = opened.enter_context(store)
            self.push(opened.pop_all())

    def missing(self, study: Study) -> list[Cell]:
        """The cells that its file lacks."""
        return [cell for cell in self._cells[study.name] if digest(cell) not in self._stores[study.name]]

    @property
    def kept(self) -> int:
        """Cells in the files."""
        return sum(len(store) for store in self._stores.values())

    def run(self, measured: Callable[[Study], None]) -> list[Finished]:
        """Measure what is missing, and draw and judge each study as soon as it is complete. measured: called after each
        cell. Raises what measuring raises."""
        finished = []
        for study in self._studies:
            for record in study.measure(self._kit, self.missing(study)):
                line = {"cell": record.cell, "result": dict(record.result)}
                self._stores[study.name].put({digest(record.cell): line})
                measured(study)
            finished.append(self._finish(study))
        environment = environment_of(find_device(self._kit.device))
        write_whole(self._out / "index.html", page(finished, {**self._facts, **environment}).encode())
        write_whole(self._out / "verdicts.md", verdicts(finished).encode())
        return finished

    def _finish(self, study: Study) -> Finished:
        """Draw, and judge. The records are those of the file, so a run that goes on sees what the first one saw."""
        store = self._stores[study.name]
        records = [Record(cell, store.get(digest(cell))["result"]) for cell in self._cells[study.name]]
        shown = None
        if records:
            caption = f"{study.name}, {self._facts['model']}, {self._facts['dtype']}"
            shown = Picture(caption, png(study.chart(records)))
            write_whole(self._out / f"{study.name}.png", shown.png)
        return Finished(study, records, study.verdict(records), shown)
