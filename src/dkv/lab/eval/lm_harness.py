"""lm-eval (the extra `eval`): dkv as its registered model "dkv", and its tasks run under several settings.

    from dkv.lab.eval.lm_harness import registered_class
    registered_class()  # from here on lm_eval.simple_evaluate(model="dkv", model_args={"model": ...}) knows it

lm-eval is imported only when one of these functions is called.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache as once
from pathlib import Path
from typing import Any

from dkv.errors import SettingError
from dkv.lab.eval.answers import ANSWERS, Asker, key_of
from dkv.lab.eval.harness import HarnessModel
from dkv.lab.eval.measured import ExampleOutcome, TaskOutcomes
from dkv.lab.eval.questions import Setting
from dkv.lab.eval.suites import EMBEDDED
from dkv.lm import DiffusionLM
from dkv.loading import load
from dkv.storage.jsonl import Store

__all__ = ["Tasks", "registered_class"]


@once
def registered_class() -> Any:
    """The subclass of lm-eval's LM, registered as "dkv". Raises SettingError where lm-eval is not installed."""
    base: Any = _import("lm_eval.api.model").LM

    class DkvLM(HarnessModel, base):  # type: ignore[misc]
        """See `HarnessModel`; the arguments are those of `lm.generate` and of `dkv eval`."""

        def __init__(
            self,
            model: str | DiffusionLM = "tiny",
            cache: str = "dkv-decode",
            decoder: str | None = None,
            gen_length: int | None = None,
            block_length: int | None = None,
            steps: int | None = None,
            cfg_scale: float = 0.0,
            seed: int = 0,
            mc_samples: int = 128,
            check_greedy: bool = True,
            batch_size: int | str = 32,
            max_batch_size: int | None = None,
            device: str = "auto",
            dtype: str = "auto",
            quantize: str | None = None,
            store: Store | None = None,
            tell: Callable[[int], None] = lambda count: None,
        ) -> None:
            base.__init__(self)
            if not str(batch_size).isdecimal() or int(batch_size) < 1:
                raise SettingError(f"batch_size={batch_size!r} must be a whole number of at least 1")
            if not isinstance(model, DiffusionLM):
                model = load(model, device=device, dtype=dtype, quantize=quantize)
            lm = model
            kind = decoder or lm.model.config.default_decoder
            setting = Setting(kind, cache, cfg_scale, block_length, steps, gen_length)
            kept = Store(None, {}, ANSWERS) if store is None else store
            HarnessModel.__init__(self, Asker(lm, kept, seed, int(batch_size)), setting, mc_samples, check_greedy, tell)

    return _import("lm_eval.api.registry").register_model("dkv")(DkvLM)


@dataclass(frozen=True)
class Tasks:
    """Tasks of lm-eval by name. include_path: a directory of further YAML tasks; count: examples of each; chat: whether
    contexts go through the chat template; num_fewshot: None = the task's own; unconfined_code: consent to what lm-eval
    itself executes, without dkv's sandbox; seed: of its choice of examples; samples: draws for each likelihood."""

    names: tuple[str, ...]
    include_path: Path | None = None
    count: int | None = None
    chat: bool = False
    num_fewshot: int | None = None
    unconfined_code: bool = False
    seed: int = 0
    samples: int = 128

    def manager(self) -> Any:
        """lm-eval's finder of tasks: only the given directory where that holds them all, else its own too.

        Raises SettingError for a name that is in neither, and where lm-eval is not installed.
        """
        try:
            maker = _import("lm_eval.tasks").TaskManager
        except SettingError as error:
            own = ", ".join(EMBEDDED)
            raise SettingError(f"tasks: {self.names[0]!r} is no task of dkv ({own}); {error}") from None
        if self.include_path is not None:
            if not self.include_path.is_dir():
                raise SettingError(f"include_path={str(self.include_path)!r} must be a directory of YAML files")
            alone = maker(include_path=str(self.include_path), include_defaults=False)
            if set(self.names) <= set(alone.all_tasks):
                return alone
        found = maker(include_path=None if self.include_path is None else str(self.include_path))
        for name in self.names:
            if name not in found.all_tasks:
                raise SettingError(f"tasks: {name!r} is neither a task of dkv nor of lm-eval; see `lm_eval ls tasks`")
        return found

    def run(self, asker: Asker, setting: Setting, manager: Any, tell: Callable[[int], None]) -> list[TaskOutcomes]:
        """Run them under one setting. Raises SettingError, PromptError, and OSError where data cannot be fetched."""
        model = registered_class()(
            asker.lm, setting.cache, setting.decoder, setting.gen_length, setting.block_length, setting.steps,
            setting.cfg_scale, asker.seed, self.samples, batch_size=asker.batch_size, store=asker.store, tell=tell,
        )  # fmt: skip
        try:
            results = _import("lm_eval").simple_evaluate(
                model=model, tasks=list(self.names), num_fewshot=self.num_fewshot, limit=self.count, bootstrap_iters=0,
                task_manager=manager, apply_chat_template=self.chat, fewshot_as_multiturn=self.chat,
                confirm_run_unsafe_code=self.unconfined_code, random_seed=self.seed, numpy_random_seed=self.seed,
                torch_random_seed=self.seed, fewshot_random_seed=self.seed,
            )  # fmt: skip
        except ValueError as error:
            if "unsafe" in str(error):
                raise SettingError(
                    f"tasks: {', '.join(self.names)} run what the model writes without limits; use --humaneval PATH, "
                    "or allow it with --unconfined-code"
                ) from None
            raise
        return [found for task, samples in results["samples"].items() for found in _measured(model, task, samples)]


def _measured(model: HarnessModel, task: str, samples: Sequence[dict[str, Any]]) -> list[TaskOutcomes]:
    """Every metric of a task that has a number for each example."""
    made: dict[str, dict[str, ExampleOutcome]] = {}
    for sample in samples:
        suffix = "" if sample["filter"] == "none" else f", {sample['filter']}"
        for metric in sample["metrics"]:
            if isinstance(sample[metric], (bool, int, float)):
                outcome = _outcome(model, sample, float(sample[metric]))
                made.setdefault(metric + suffix, {})[str(sample["doc_id"])] = outcome
    return [TaskOutcomes(task, model.setting, metric, outcomes) for metric, outcomes in made.items()]


def _outcome(model: HarnessModel, sample: dict[str, Any], value: float) -> ExampleOutcome:
    """One example's value, with what its generations took; a likelihood takes none."""
    output = repr(sample["resps"])
    if not isinstance(sample["arguments"][0][-1], dict):
        return ExampleOutcome(value, output)
    asked = [model.asker.store.get(key_of(q, model.setting)) for q in model.questions_of(sample["arguments"])]
    names = ("tokens", "seconds", "rows", "rows_total")
    return ExampleOutcome(value, output, **{name: sum(record[name] for record in asked) for name in names})


def _import(name: str) -> Any:
    """A module of lm-eval. Raises SettingError where it is not installed."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "lm_eval":
            raise
        raise SettingError("lm-eval, which has others, is not installed: pip install 'dkv[eval]'") from None
