"""A whole job on a small model: every answer is that of its line alone, in whatever pieces the job was done."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import dkv
from dkv.errors import SettingError
from dkv.jobs.job import Job, JobProgress
from dkv.jobs.job_line import seed_of_line
from dkv.jobs.source import JobOptions
from tests.support.job_files import answers, prompts, results, write_lines

ARGUMENTS: dict[str, Any] = {"gen_length": 8, "block_length": 4, "temperature": 0.7}


@pytest.fixture
def wanted(tmp_path: Path, spoken: Path) -> JobOptions:
    source = write_lines(tmp_path / "in.jsonl", prompts(12))
    return JobOptions(
        source,
        tmp_path / "out.jsonl",
        ARGUMENTS,
        model=str(spoken),
        device="cpu",
        dtype="float32",
        seed=5,
        batch_size=3,
    )


class EnoughError(Exception):
    pass


def run(wanted: JobOptions, until: int = 1 << 30) -> JobProgress:
    """Run a job; give up, as Ctrl-C would, once so many are finished."""

    def tell(progress: JobProgress) -> None:
        if progress.finished >= until:
            raise EnoughError

    with Job(wanted) as job:
        return job.run(tell)


def test_an_answer_is_what_the_line_gets_alone(wanted: JobOptions, lm: dkv.DiffusionLM) -> None:
    progress = run(wanted)
    assert (progress.finished, progress.failed) == (12, 0)
    found = answers(wanted.output)
    for number, record in enumerate(prompts(12), 1):
        own = {key: value for key, value in record.items() if key not in ("prompt", "id")}
        alone = lm.generate(record["prompt"], **{**ARGUMENTS, **own, "seed": seed_of_line(5, number)})[0]
        assert found[number]["text"] == alone.text
        assert (found[number]["id"], found[number]["seed"]) == (record["id"], alone.seed)
        assert found[number]["new_tokens"] == alone.stats.new_tokens


def test_a_job_in_pieces_is_the_same_job(wanted: JobOptions, tmp_path: Path) -> None:
    run(wanted)
    pieces = replace(wanted, output=tmp_path / "pieces.jsonl")
    kept = b""
    for until in (2, 5, 9):
        with pytest.raises(EnoughError):
            run(replace(pieces, batch_size=until), until)
        assert pieces.output.read_bytes().startswith(kept)
        kept = pieces.output.read_bytes()
        assert kept.count(b"\n") >= until
    assert run(pieces).before >= 9
    assert pieces.output.read_bytes().startswith(kept)
    assert answers(pieces.output) == answers(wanted.output)


@pytest.mark.usefixtures("built_once")
def test_a_compiled_job_gives_the_same_texts(wanted: JobOptions, tmp_path: Path) -> None:
    run(wanted)
    compiled = replace(wanted, output=tmp_path / "compiled.jsonl", compile=True)
    run(compiled)
    assert answers(compiled.output) == answers(wanted.output)


def test_a_finished_job_does_nothing_more(wanted: JobOptions) -> None:
    run(wanted)
    before = wanted.output.read_bytes()
    assert (run(wanted).done, run(wanted).finished) == (0, 12)
    assert wanted.output.read_bytes() == before


def test_a_drawn_seed_is_kept_for_the_rest(wanted: JobOptions) -> None:
    drawn = replace(wanted, seed=None)
    with pytest.raises(EnoughError):
        run(drawn, 3)
    with Job(drawn) as job:
        job.run(lambda _: None)
        seed = job.seed
    found = answers(wanted.output)
    assert all(found[number]["seed"] == seed_of_line(seed, number) for number in range(1, 13))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 6}, "seed=5, not 6"),
        ({"arguments": {**ARGUMENTS, "gen_length": 12}}, "gen_length=8, not 12"),
        ({"arguments": {**ARGUMENTS, "stop": ("x",)}}, r"stop=None, not \['x'\]"),
        ({"dtype": "bfloat16"}, "dtype='float32', not 'bfloat16'"),
        ({"model": "tiny"}, "model="),
        ({"quantize": "int8"}, "quantize=None, not 'int8'"),
        ({"compile": True}, "compile=None, not True"),
    ],
)
def test_other_settings_are_refused(wanted: JobOptions, change: dict[str, Any], message: str) -> None:
    with pytest.raises(EnoughError):
        run(wanted, 1)
    with pytest.raises(SettingError, match=message):
        Job(replace(wanted, **change))


def test_another_input_is_refused(wanted: JobOptions) -> None:
    with pytest.raises(EnoughError):
        run(wanted, 1)
    write_lines(wanted.input, prompts(13))
    with pytest.raises(SettingError, match="of another input"):
        Job(wanted)


@pytest.mark.parametrize("bad", ["{", {"prompt": "x", "gen_length": 7}, {"prompt": "y" * 5000}])
def test_a_bad_line_stops_the_job_before_anything_is_run(wanted: JobOptions, bad: object) -> None:
    write_lines(wanted.input, [*prompts(3), bad])
    with pytest.raises(SettingError, match=r"^input: line 4: "):
        run(wanted)
    assert not wanted.output.exists()


def test_skip_bad_goes_on_and_does_not_try_again(wanted: JobOptions) -> None:
    write_lines(wanted.input, [*prompts(3), "{", {"prompt": "x", "gen_length": 7, "id": "seven"}])
    skipping = replace(wanted, skip_bad=True)
    assert (run(skipping).failed, run(skipping).done) == (2, 0)
    found = answers(wanted.output)
    assert found[4] == {"id": 4, "error": "not JSON; give one object a line"}
    assert found[5]["id"] == "seven"
    assert "gen_length=7 must be a multiple" in found[5]["error"]
    assert all("error" not in found[number] for number in (1, 2, 3))


def test_wrong_settings_of_the_job_are_not_the_first_line_s_fault(wanted: JobOptions) -> None:
    wrong = replace(wanted, arguments={"gen_length": 10, "block_length": 4}, skip_bad=True)
    with pytest.raises(SettingError, match=r"^gen_length=10 must be a multiple"):
        run(wrong)
    with pytest.raises(SettingError, match="batch_size=0"):
        replace(wanted, batch_size=0)


def test_without_a_tokenizer_there_are_ids(wanted: JobOptions, bare: Path) -> None:
    write_lines(wanted.input, [{"prompt": [1, 2, 3]}])
    run(replace(wanted, model=str(bare)))
    (record,) = results(wanted.output)
    assert record["text"] is None
    assert len(record["token_ids"]) == record["new_tokens"]
    assert json.dumps(record)
