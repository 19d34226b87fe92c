"""One `dkv eval`: which tasks under which settings, on which model, kept where."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dkv.caches import make_cache
from dkv.decoders import make_decoder
from dkv.errors import SettingError
from dkv.lab.eval.answers import ANSWERS, Asker, ask_missing, common_of, gather, missing, warm_up
from dkv.lab.eval.eval_table import ResultRow, TaskOutcomes, pooled, summaries
from dkv.lab.eval.lm_harness import Tasks
from dkv.lab.eval.questions import Setting
from dkv.lab.eval.suites import EMBEDDED, Suite, embedded, gsm8k, humaneval
from dkv.lm import DiffusionLM
from dkv.loading import load
from dkv.server.served_defaults import Defaults
from dkv.storage.jsonl import Store

__all__ = ["CACHES", "FEW", "EvalOptions", "EvalSession"]

CACHES = (
    "none", "dkv-decode", "dkv-greedy", "dkv-prefill", "dkv-pd", "dllm-cache", "fast-prefix", "fast-dual",
)  # fmt: skip
"""What is measured unless caches are given."""


_SERVED = 1024
"""Tokens of a served answer, at most."""
FEW = 24
"""Examples of an embedded task unless `count` or `full` is given: minutes instead of hours."""


@dataclass(frozen=True)
class EvalOptions:
    """The arguments of `dkv eval`. count: examples of each task (None: FEW of an embedded task, all of others); full:
    all of the embedded tasks too; served: what `dkv serve` gives a request that says nothing, beside no cache and one
    token a step on a whole canvas. Raises SettingError, SpecError: all that can be refused before a model is loaded."""

    tasks: str | None = None
    model: str = "tiny"
    caches: tuple[str, ...] = CACHES
    decoder: str | None = None
    gen_length: int | None = None
    block_length: int | None = None
    steps: int | None = None
    cfg_scale: float = 0.0
    seed: int = 0
    count: int | None = None
    full: bool = False
    batch_size: int = 40
    out: Path | None = None
    gsm8k: Path | None = None
    humaneval: Path | None = None
    execute_code: bool = False
    num_fewshot: int | None = None
    mc_samples: int = 128
    include_path: Path | None = None
    unconfined_code: bool = False
    chat: bool | None = None
    device: str = "auto"
    dtype: str = "auto"
    quantize: str | None = None
    compile: bool = False
    grow: bool = False
    served: bool = False

    def __post_init__(self) -> None:
        for name in ("count", "batch_size", "gen_length", "block_length", "steps", "mc_samples"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise SettingError(f"{name}={value} must be a whole number of at least 1")
        for cache in self.caches:
            make_cache(cache)
        if self.decoder is not None:
            make_decoder(self.decoder)
        if self.grow and self.block_length is None:
            raise SettingError("grow=True needs block_length, by how many positions to grow at a time, such as 64")
        if self.served and (self.caches, self.decoder, self.block_length, self.steps) != (CACHES, None, None, None):
            raise SettingError("served: its cache, decoder, blocks and steps are the server's; leave the options out")
        if self.full and self.count is not None:
            raise SettingError(f"count={self.count} and full exclude each other; give one of them")
        if self.tasks is not None and not self.names:
            raise SettingError(f"tasks={self.tasks!r} names none; known: {', '.join(EMBEDDED)}, and those of lm-eval")

    @property
    def names(self) -> list[str]:
        """The tasks, each once: the embedded ones and those with a file unless they are named."""
        if self.tasks is not None:
            return list(dict.fromkeys(filter(None, (name.strip() for name in self.tasks.split(",")))))
        files = {"gsm8k": self.gsm8k, "humaneval": self.humaneval}
        return [*EMBEDDED, *(name for name, path in files.items() if path is not None)]

    def suites(self) -> list[Suite]:
        """The tasks of dkv among them. Raises SettingError."""
        made = []
        for name in self.names:
            if name in EMBEDDED:
                made.append(embedded(name, None if self.full else self.count or FEW))
            elif name == "gsm8k" and self.gsm8k is not None:
                made.append(gsm8k(self.gsm8k, self.count))
            elif name == "humaneval" and self.humaneval is not None:
                made.append(humaneval(self.humaneval, self.count, self.execute_code))
        return [suite.with_chat(self.chat) for suite in made]

    def settings(self, decoder: str) -> list[Setting]:
        """A setting for each cache, no cache first. decoder: where none is given."""
        how = (self.cfg_scale, self.block_length, self.steps, self.gen_length, self.grow)
        return [Setting(self.decoder or decoder, cache, *how) for cache in dict.fromkeys(("none", *self.caches))]

    def served_settings(self, lm: DiffusionLM) -> list[Setting]:
        """No cache and one token a step on a whole canvas, and what a server gives a request that says nothing. Raises
        SettingError."""
        known = Defaults.of(lm)
        chosen = known.fill({}).options
        served = Setting(
            str(chosen["decoder"]), str(chosen["cache"]), self.cfg_scale, chosen.get("block_length"),
            gen_length=_SERVED, grow=chosen["grow"],
        )  # fmt: skip
        return [Setting(known.decoder, "none", self.cfg_scale, gen_length=self.gen_length), served]


class EvalSession:
    """An evaluation about to run, or interrupted and about to go on. `store`, a context manager, is its file.

    Raises SettingError, SpecError, CheckpointError, and OSError.
    """

    def __init__(self, wanted: EvalOptions) -> None:
        self._wanted, self._suites = wanted, wanted.suites()
        own = {suite.name for suite in self._suites}
        foreign = tuple(name for name in wanted.names if name not in own)
        self._manager: Any = Tasks(foreign, wanted.include_path).manager() if foreign else None
        lm = load(
            wanted.model, device=wanted.device, dtype=wanted.dtype, quantize=wanted.quantize, compile=wanted.compile
        )
        chat = wanted.chat if wanted.chat is not None else bool(lm.tokenizer and lm.tokenizer.has_template)
        self._tasks = Tasks(
            foreign, wanted.include_path, wanted.count, chat, wanted.num_fewshot, wanted.unconfined_code, wanted.seed,
            wanted.mc_samples,
        )  # fmt: skip
        self.common = {**common_of(lm, wanted.seed), "batch_size": wanted.batch_size}
        self.store = Store(wanted.out, self.common, ANSWERS)
        self._asker = Asker(lm, self.store, wanted.seed, wanted.batch_size)
        self._settings = (
            wanted.served_settings(lm) if wanted.served else wanted.settings(lm.model.config.default_decoder)
        )
        self._measured: list[TaskOutcomes] = []

    def run(self, tell: Callable[[str], None]) -> list[ResultRow]:
        """Do what is missing, and sum up all of it. tell: takes a line of progress now and then."""
        for suite in self._suites:
            total = missing(self.store, suite, self._settings)
            tell(f"{suite.name}: {total} answers to find")
            if total:
                warm_up(self._asker, suite.questions[0], self._settings)
            ask_missing(self._asker, suite, self._settings, tell)
        if self._tasks.names:
            self._run_foreign(tell)
        own = [m for suite in self._suites for m in gather(self.store, suite, self._settings)]
        found = [*own, *pooled(own), *self._measured]
        return summaries(found, self._settings[0] if self._wanted.served else None)

    def _run_foreign(self, tell: Callable[[str], None]) -> None:
        for setting in self._settings:
            done = 0

            def count(more: int, cache: str = setting.cache) -> None:
                nonlocal done
                done += more
                tell(f"lm-eval, {cache}: {done} answers")

            self._measured += self._tasks.run(self._asker, setting, self._manager, count)
