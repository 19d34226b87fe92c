"""Questions asked, kept and checked; what is interrupted goes on; tables never show a difference without its count."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import dkv
from dkv.checkpoints.weight_files import fingerprint
from dkv.lab.eval.answers import ANSWERS, Asker, gather, key_of, missing, run, warm_up
from dkv.lab.eval.eval_table import ALL, ExampleOutcome, TaskOutcomes, as_json, cells, markdown, pooled, summaries
from dkv.lab.eval.questions import Question, Setting, batches
from dkv.lab.eval.suites import Problem, Suite
from dkv.storage.jsonl import Store

NONE = Setting("confidence", "none")
SETTINGS = [NONE, Setting("confidence", "dkv-decode:refresh=3"), Setting("confidence", "dkv-prefill")]
PROMPTS = ("a", "to be or not to be", "b c", "the quick brown fox", "x y z")


def suite(checked: list[str] | None = None) -> Suite:
    """Texts with an even number of characters count as right."""

    def check(text: str) -> bool:
        if checked is not None:
            checked.append(text)
        return len(text) % 2 == 0

    return Suite("even", tuple(Problem(Question(prompt, 8), check, "even") for prompt in PROMPTS))


def asker(lm: dkv.DiffusionLM, path: Path | None = None) -> Asker:
    return Asker(lm, Store(path, {}, ANSWERS), batch_size=2)


def test_answers_are_those_of_generate(lm: dkv.DiffusionLM) -> None:
    a = asker(lm)
    assert sum(run(a, suite(), SETTINGS)) == len(SETTINGS) * len(PROMPTS)
    for setting in SETTINGS:
        made = lm.generate(list(PROMPTS), gen_length=8, seed=0, cache=setting.cache, decoder="confidence")
        (measured,) = gather(a.store, suite(), [setting])
        assert [o.output for o in measured.outcomes.values()] == [g.text for g in made]
        assert [o.value for o in measured.outcomes.values()] == [float(len(g.text or "") % 2 == 0) for g in made]
        assert [o.rows for o in measured.outcomes.values()] == [g.stats.rows_computed for g in made]


def test_without_a_template_a_conversation_is_plain_text(lm: dkv.DiffusionLM) -> None:
    said = (("user", "a"), ("assistant", "b"), ("user", "c"))
    (made,) = asker(lm).generate([Question(said, 4, chat=False)], NONE)
    (plain,) = asker(lm).generate([Question("user: a\n\nassistant: b\n\nuser: c\n\nassistant:", 4, chat=False)], NONE)
    assert made.prompt_ids == plain.prompt_ids
    assert made.token_ids == plain.token_ids


def test_an_interrupted_run_goes_on_and_ends_the_same(lm: dkv.DiffusionLM, tmp_path: Path) -> None:
    whole = asker(lm)
    list(run(whole, suite(), SETTINGS))
    for _ in range(2):
        a = asker(lm, tmp_path / "out.jsonl")
        with a.store:
            next(run(a, suite(), SETTINGS))  # one batch, then nothing more
    a = asker(lm, tmp_path / "out.jsonl")
    with a.store:
        left = missing(a.store, suite(), SETTINGS)
        assert left == len(SETTINGS) * len(PROMPTS) - 4
        assert sum(run(a, suite(), SETTINGS)) == left
        assert missing(a.store, suite(), SETTINGS) == 0

        def plain(m: TaskOutcomes) -> list[ExampleOutcome]:
            return [replace(o, seconds=0.0, cpu=0.0) for o in m.outcomes.values()]

        for found, expected in zip(
            gather(a.store, suite(), SETTINGS), gather(whole.store, suite(), SETTINGS), strict=True
        ):
            assert plain(found) == plain(expected)


def test_equal_texts_are_checked_once_and_lost_checks_are_made_up(lm: dkv.DiffusionLM) -> None:
    checked: list[str] = []
    a = asker(lm)
    list(a.ask(suite().questions, SETTINGS))  # answered, never checked
    assert gather(a.store, suite(), [NONE])[0].outcomes == {}
    assert list(run(a, suite(checked), SETTINGS)) == []
    texts = {(i, o.output) for m in gather(a.store, suite(), SETTINGS) for i, o in m.outcomes.items()}
    assert len(checked) == len(texts) < len(SETTINGS) * len(PROMPTS)


def test_every_setting_takes_a_batch_before_the_next(lm: dkv.DiffusionLM) -> None:
    asked = list(asker(lm).ask(suite().questions, SETTINGS[:2]))
    assert [setting for setting, _ in asked] == SETTINGS[:2] * 3
    assert asked[0][1] == asked[1][1] == [0, 2]


def test_what_decides_an_answer_decides_its_key() -> None:
    question = Question("p", 8)
    others = [
        replace(question, prompt="q"), replace(question, gen_length=9), replace(question, stop=("x",)),
        replace(question, chat=False), replace(question, temperature=0.5), replace(question, draw=1),
    ]  # fmt: skip
    settings = [NONE, *SETTINGS[1:], replace(NONE, steps=4), replace(NONE, cfg_scale=0.5), replace(NONE, gen_length=16)]
    keys = [key_of(question, setting) for setting in settings] + [key_of(other, NONE) for other in others]
    assert len(set(keys)) == len(keys)
    assert key_of(question, replace(NONE, gen_length=8)) != key_of(question, replace(NONE, gen_length=16))


def test_batches_hold_what_may_share_a_call() -> None:
    questions = [Question("a" * n, 8 if n % 2 else 16, chat=None if n < 5 else False) for n in range(1, 12)]
    made = list(batches(questions, 3))
    assert sorted(i for batch in made for i in batch) == list(range(11))
    for batch in made:
        assert len(batch) <= 3
        assert len({(questions[i].gen_length, questions[i].chat) for i in batch}) == 1
        assert [questions[i].size for i in batch] == sorted(questions[i].size for i in batch)


def test_sampled_questions_share_no_noise(lm: dkv.DiffusionLM) -> None:
    """Each draw of each prompt has a seed of its own, the same under every setting and in every batch; it makes the
    answer again. Nothing is drawn at temperature 0."""
    questions = [Question(prompt, 8, temperature=2.0, draw=draw) for prompt in ("a", "b") for draw in range(2)]
    made = asker(lm).generate(questions, NONE)
    seeds = [generation.seed for generation in made]
    assert len(set(seeds)) == len(questions)
    assert seeds[::-1] == [g.seed for g in asker(lm).generate(questions[::-1], SETTINGS[-1])]
    (again,) = lm.generate("b", gen_length=8, temperature=2.0, seed=seeds[3], cache="none", decoder="confidence")
    assert again.token_ids == made[3].token_ids
    still = [replace(question, temperature=0.0) for question in questions]
    assert [generation.seed for generation in asker(lm).generate(still, NONE)] == [0, 1, 0, 1]


def test_draws_of_one_prompt_differ(lm: dkv.DiffusionLM) -> None:
    a = asker(lm)
    questions = [Question("a", 8, temperature=2.0, draw=n) for n in range(2)]
    list(a.ask(questions, [NONE]))
    assert a.answer(questions[0], NONE)["text"] != a.answer(questions[1], NONE)["text"]


def test_warming_up_keeps_nothing(lm: dkv.DiffusionLM) -> None:
    a = asker(lm)
    warm_up(a, Question("a", 24), [*SETTINGS, replace(NONE, block_length=4), replace(NONE, block_length=16)])
    assert len(a.store) == 0


def measured(setting: Setting, values: str, task: str = "t") -> TaskOutcomes:
    outcomes = {
        str(i): ExampleOutcome(float(v), f"{v}{i}", 4, 2.0, 10.0, 40.0) for i, v in enumerate(values) if v != "-"
    }
    return TaskOutcomes(task, setting, outcomes=outcomes)


def test_pairs_are_examples_that_both_have() -> None:
    base, other = summaries([measured(NONE, "1100-"), measured(SETTINGS[1], "1-101")])
    assert base.difference is None
    assert other.difference is not None
    assert (other.difference.both, other.difference.gained, other.difference.lost) == (1, 1, 0)
    assert (other.count, other.difference.count) == (4, 3)
    assert other.agreement is not None
    assert (other.agreement.right, other.agreement.count) == (2, 3)
    assert (other.rows, other.speed) == (0.25, 2.0)
    alone, empty = measured(SETTINGS[1], "11", "u"), measured(NONE, "--", "u")
    (row,) = summaries([empty, alone])
    assert row.difference is None


def test_rows_stand_task_by_task() -> None:
    made = [measured(setting, "10", task) for setting in (NONE, SETTINGS[1]) for task in ("t", "u")]
    assert [(row.task, row.setting) for row in summaries(made)] == [
        ("t", NONE), ("t", SETTINGS[1]), ("u", NONE), ("u", SETTINGS[1]),
    ]  # fmt: skip


def test_tasks_are_pooled_by_their_examples() -> None:
    """An example is paired with the same of its own task; what has no right or wrong is left out."""
    other = SETTINGS[1]

    def of(task: str, setting: Setting, *values: float) -> TaskOutcomes:
        return TaskOutcomes(
            task, setting, outcomes={str(n): ExampleOutcome(value, f"{value}") for n, value in enumerate(values)}
        )

    one = [of("a", NONE, 1, 0), of("a", other, 1, 1)]
    assert pooled(one) == []
    judged = [*one, of("b", NONE, 1, 1, 1), of("b", other, 0, 1)]
    graded = [of("c", NONE, 0.5), of("c", other, 0.25)]
    first, second = summaries(pooled([*judged, *graded]))
    assert (first.task, first.setting, first.count) == (ALL, NONE, 5)
    assert (second.task, second.setting, second.count) == (ALL, other, 4)
    assert second.share is not None
    assert second.share.right == 3
    assert second.difference is not None
    assert (second.difference.count, second.difference.gained, second.difference.lost) == (4, 1, 1)


def test_every_difference_has_its_count_and_interval() -> None:
    rows = summaries([measured(NONE, "1100"), measured(SETTINGS[1], "1010"), measured(SETTINGS[2], "0000")])
    table = markdown(rows)
    assert len(re.findall(r"[+-]\d+\.\d \[[+-]\d+\.\d, [+-]\d+\.\d\] points, n=4, p=", table)) == 2
    assert len(re.findall(r"points", table)) == 2
    assert len(re.findall(r"\d/4 = \d+\.\d% \[\d+\.\d%, \d+\.\d%\]", table)) == 3
    for row in rows[1:]:
        found = as_json(row)["difference"]
        assert found["count"] == 4
        assert found["interval"][0] <= found["value"] <= found["interval"][1]


def test_a_metric_that_is_no_matter_of_right_and_wrong() -> None:
    outcomes = {str(i): ExampleOutcome(value, "x") for i, value in enumerate((0.25, 0.5, 1.0))}
    rows = summaries([TaskOutcomes("t", setting, "bleu", outcomes) for setting in SETTINGS])
    assert rows[1].difference is None
    assert cells(rows[1])[0] == "t: bleu"
    assert cells(rows[1])[3] == "0.5833 ± 0.22 (standard error), n=3"
    assert cells(rows[1])[6:] == ("", "")
    assert as_json(rows[1])["share"] is None


def test_fingerprints_tell_checkpoints_apart(bare: Path, spoken: Path, tmp_path: Path) -> None:
    assert fingerprint(bare) == fingerprint(bare) != fingerprint(spoken)
    for path in bare.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    assert fingerprint(tmp_path) == fingerprint(bare)
    weights = bytearray((tmp_path / "model.safetensors").read_bytes())
    weights[len(weights) // 2] ^= 1
    (tmp_path / "model.safetensors").write_bytes(weights)
    assert fingerprint(tmp_path) != fingerprint(bare)
