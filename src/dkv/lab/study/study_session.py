"""One `dkv study`: which cells are missing, what was measured, each kept at once, and what follows from all of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from dkv.errors import SettingError
from dkv.lab.bench.environment import environment_of
from dkv.lab.common.html import Picture
from dkv.lab.common.plots import png
from dkv.lab.eval.questions import digest
from dkv.lab.study.base import Cell, Effort, Record, Study, Verdict
from dkv.lab.study.context import Kit
from dkv.lab.study.study_page import page, verdicts
from dkv.loading import find_device
from dkv.storage.atomic import write_whole
from dkv.storage.jsonl import Store, StoreFormat

__all__ = ["Finished", "StudySession"]

_RECORDS = StoreFormat("dkv-study 1", "dkv study", "give another directory")


@dataclass(frozen=True)
class Finished:
    """A study of which every cell is there. picture: None where there is nothing to draw."""

    study: Study
    records: Sequence[Record]
    verdict: Verdict
    picture: Picture | None


class StudySession:
    """Studies about to run, or interrupted and about to go on; their files, one each, belong to this run alone until it
    is closed. A context manager. command: as it was typed, for the files and the page.

    Raises SettingError where a file was made with another model, device, dtype, seed or version, or another run has
    it, what `load` raises for a model, and OSError.
    """

    def __init__(self, studies: Sequence[Study], effort: Effort, kit: Kit, out: Path, command: str) -> None:
        if effort.count < 1:
            raise SettingError(f"count={effort.count} must be a whole number of at least 1")
        _make(out)
        self._studies, self._kit, self._out = studies, kit, out
        self._cells = {study.name: list(study.cells(effort)) for study in studies}
        noted, common = {"command": command, "effort": asdict(effort)}, kit.common()
        self._facts: dict[str, Any] = {**noted, **common}
        self._files = ExitStack()
        self._stores: dict[str, Store] = {}
        try:
            for study in studies:
                store = Store(out / f"{study.name}.jsonl", common, _RECORDS, noted)
                self._stores[study.name] = self._files.enter_context(store)
        except BaseException:
            self._files.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._files.close()

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
        self._write(finished)
        return finished

    def _finish(self, study: Study) -> Finished:
        """Draw, and judge. The records are those of the file, so a run that goes on sees what the first one saw."""
        store = self._stores[study.name]
        records = [Record(cell, store.get(digest(cell))["result"]) for cell in self._cells[study.name]]
        picture = None
        if records:
            picture = Picture(
                f"{study.name}, {self._facts['model']}, {self._facts['dtype']}", png(study.chart(records))
            )
            write_whole(self._out / f"{study.name}.png", picture.png)
        return Finished(study, records, study.verdict(records), picture)

    def _write(self, finished: Sequence[Finished]) -> None:
        shown = [(f.study, f.records, f.verdict, f.picture) for f in finished]
        environment = environment_of(find_device(self._kit.device))
        write_whole(self._out / "index.html", page(shown, {**self._facts, **environment}).encode())
        write_whole(self._out / "verdicts.md", verdicts(shown).encode())


def _make(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingError(f"out={str(out)!r} cannot be a directory ({error.strerror}); give another") from None
