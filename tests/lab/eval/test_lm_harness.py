"""dkv inside lm-eval: a local YAML task over an embedded task's examples, and a task of likelihoods."""

from __future__ import annotations

import importlib
import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import dkv
from dkv.cli.commands import app
from dkv.errors import SettingError
from dkv.lab.eval.answers import ANSWERS, Asker, gather, run
from dkv.lab.eval.lm_harness import Tasks, registered_class
from dkv.lab.eval.questions import Setting
from dkv.lab.eval.suites import embedded
from dkv.storage.jsonl import Store
from dkv.tiny import load_eval

lm_eval: Any = pytest.importorskip("lm_eval", reason="lm-eval is tested by `make test-lm-eval`")
# Other packages' own; not ours to mend.
pytestmark = [
    pytest.mark.filterwarnings(f"ignore::{kind}") for kind in ("DeprecationWarning", "FutureWarning", "ResourceWarning")
]

COUNT = 6
WORDS = """
task: embedded_words
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{prompt}}}}"
doc_to_target: "{{{{answer.split('####')[-1].strip()}}}}"
generation_kwargs: {{until: [], max_gen_toks: 64, do_sample: false}}
filter_list:
  - name: final
    filter: [{{function: regex, regex_pattern: '####\\s*(-?\\d+)', group_select: -1}}, {{function: take_first}}]
metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true}}]
"""
CHOICE = """
task: chosen
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{prompt}}}}"
doc_to_choice: "{{{{[answer.split(' ')[0], 'zebra zebra']}}}}"
doc_to_target: 0
target_delimiter: ""
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
"""


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded task's own examples, and two YAML tasks over them."""
    folder = tmp_path_factory.mktemp("tasks")
    data = folder / "words.jsonl"
    data.write_text("".join(json.dumps(asdict(e)) + "\n" for e in load_eval("words")[:COUNT]), encoding="utf-8")
    (folder / "words.yaml").write_text(WORDS.format(data=data), encoding="utf-8")
    (folder / "chosen.yaml").write_text(CHOICE.format(data=data), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def tiny() -> dkv.DiffusionLM:
    return dkv.load("tiny", dtype="float32")


def test_a_yaml_task_scores_as_dkv_eval_does_to_the_last_example(directory: Path, tiny: dkv.DiffusionLM) -> None:
    setting = Setting("confidence", "dkv-decode:refresh=16")
    suite, own = embedded("words", COUNT), Asker(tiny, Store(None, {}, ANSWERS))
    list(run(own, suite, [setting]))
    (expected,) = gather(own.store, suite, [setting])
    tasks, counted = Tasks(("embedded_words",), directory, COUNT, chat=True), list[int]()
    asker = Asker(tiny, Store(None, {}, ANSWERS))
    (found,) = tasks.run(asker, setting, tasks.manager(), counted.append)
    values = [o.value for o in expected.outcomes.values()]
    assert {0.0, 1.0} == set(values)
    assert [o.value for o in found.outcomes.values()] == values
    assert list(found.outcomes) == list(expected.outcomes)
    assert [o.rows for o in found.outcomes.values()] == [o.rows for o in expected.outcomes.values()]
    assert found.metric == "exact_match, final"
    assert sum(counted) == COUNT
    tasks.run(asker, setting, tasks.manager(), counted.append)
    assert sum(counted) == COUNT  # nothing is asked twice


def test_likelihoods_choose_the_right_answer(directory: Path, tiny: dkv.DiffusionLM) -> None:
    tasks = Tasks(("chosen",), directory, COUNT, chat=True, samples=4)
    (found,) = tasks.run(
        Asker(tiny, Store(None, {}, ANSWERS)), Setting("confidence", "none"), tasks.manager(), lambda n: None
    )
    assert found.metric == "acc"
    assert [o.value for o in found.outcomes.values()] == [1.0] * COUNT


def test_registered_by_name(directory: Path) -> None:
    assert registered_class() is registered_class()
    results = lm_eval.simple_evaluate(
        model="dkv", model_args={"cache": "dkv-prefill", "dtype": "float32", "steps": 16}, tasks=["embedded_words"],
        limit=1, bootstrap_iters=0, apply_chat_template=True, batch_size=1,
        task_manager=Tasks(("embedded_words",), directory).manager(),
    )  # fmt: skip
    assert results["n-samples"]["embedded_words"]["effective"] == 1
    with pytest.raises(SettingError, match="batch_size='auto'"):
        registered_class()(batch_size="auto")


def test_unknown_tasks_and_directories_are_refused(directory: Path) -> None:
    with pytest.raises(SettingError, match="'no_such_task' is neither a task of dkv nor of lm-eval"):
        Tasks(("no_such_task",)).manager()
    with pytest.raises(SettingError, match="must be a directory"):
        Tasks(("embedded_words",), directory / "nope").manager()


def test_code_that_is_not_confined_needs_consent(directory: Path, tiny: dkv.DiffusionLM, tmp_path: Path) -> None:
    text = (directory / "words.yaml").read_text(encoding="utf-8").replace("task: embedded_words", "task: wild")
    (tmp_path / "wild.yaml").write_text(text + "unsafe_code: true\n", encoding="utf-8")
    tasks = Tasks(("wild",), tmp_path, 1)
    with pytest.raises(SettingError, match="--unconfined-code"):
        tasks.run(Asker(tiny, Store(None, {}, ANSWERS)), Setting("confidence", "none"), tasks.manager(), lambda n: None)


def test_the_program_itself(directory: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(
        app,
        ["eval", "--tasks", "words,embedded_words", "--include-path", str(directory), "--count", "2", "--steps", "16",
         "--cache", "dkv-prefill", "--out", str(tmp_path / "out.jsonl"), "--json"],
    )  # fmt: skip
    found = json.loads(done.stdout)["results"]
    assert [(r["task"], r["cache"], r["count"]) for r in found] == [
        (task, cache, 2) for task in ("words", "embedded_words") for cache in ("none", "dkv-prefill")
    ]
    assert [r["mean"] for r in found[:2]] == [r["mean"] for r in found[2:]]
    assert [r["difference"] for r in found[:2]] == [r["difference"] for r in found[2:]]


def test_the_example_of_the_page_registers_and_names_what_exists() -> None:
    page = Path(__file__).parents[3] / "docs" / "eval.md"
    (example,) = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    setup, _, call = example.partition("lm_eval.simple_evaluate")
    called: dict[str, Any] = {}
    exec(compile(setup, "eval.md", "exec"), {})
    exec(compile("called.update" + call, "eval.md", "exec"), {"called": called})
    registry = importlib.import_module("lm_eval.api.registry")
    made = registry.get_model(called["model"]).create_from_arg_obj(called["model_args"], {})
    assert made.setting.cache == "dkv-decode:refresh=4"
