"""What the commands print when all is well."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import dkv
from tests.support.cli_fixtures import EOS, Cli, one_error

SHORT = ["--gen-length", "16", "--seed", "3", "--dtype", "float32"]


def test_generate_prints_text_and_summary(cli: Cli, checkpoint: Path) -> None:
    result = cli("generate", "hello", "--model", str(checkpoint), *SHORT)
    assert result.exit_code == 0, result.output
    assert result.stdout.endswith("\n")
    for part in (" tokens, 16 steps, ", " tokens/s, ", "% of rows computed (cache dkv-decode:refresh=8", "seed 3)"):
        assert part in result.stderr
    assert "\x1b" not in result.output


def test_generate_json_is_what_python_gives(cli: Cli, checkpoint: Path) -> None:
    result = cli("generate", "hello", "--model", str(checkpoint), *SHORT, "--cache", "none", "--json")
    got = json.loads(result.stdout)
    (expected,) = dkv.load(checkpoint, dtype="float32").generate("hello", gen_length=16, seed=3, cache="none")
    assert result.stderr == ""
    assert (got["text"], got["token_ids"]) == (expected.text, expected.token_ids)
    assert got["stats"]["rows_computed"] == got["stats"]["rows_total"] == 16 * (5 + 16)
    assert got["settings"]["cache"] == "none"
    assert got["settings"]["decoder"] == "confidence"
    assert (got["seed"], got["model"], got["dtype"]) == (3, str(checkpoint), "float32")
    assert {"version", "finish_reason", "prompt_ids"} <= set(got)


def test_control_tokens_in_a_text_are_said_and_can_be_meant(cli: Cli) -> None:
    rendered = "<|startoftext|><|start_header_id|>user<|end_header_id|>\n\n2+2?<|eot_id|>"
    where = ["--model", "tiny", "--gen-length", "4", "--dtype", "float32", "--json"]
    text = cli("generate", rendered, *where, "--no-chat")
    assert text.stderr == (
        "note: the prompt holds '<|startoftext|>', '<|start_header_id|>', '<|end_header_id|>' as plain text; "
        "--parse-special reads control tokens in a rendered prompt\n"
    )
    meant = cli("generate", rendered, *where, "--parse-special")
    assert meant.stderr == ""
    tokenizer = dkv.load("tiny", dtype="float32").tokenizer
    assert tokenizer is not None
    assert json.loads(text.stdout)["prompt_ids"] == tokenizer.encode(rendered)
    ids = json.loads(meant.stdout)["prompt_ids"]
    assert tokenizer.encode_chat("2+2?")[: len(ids)] == ids
    refused = cli("generate", rendered, *where, "--parse-special", "--chat")
    assert "parse_special=True is for a text that is rendered already" in one_error(refused)


def test_what_was_built_is_said(cli: Cli, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a compiler or without one, the tokens are the same."""
    where = ["--model", str(checkpoint), *SHORT]
    plain, fast = cli("generate", "hello", *where), cli("generate", "hello", *where, "--compile")
    monkeypatch.setenv("CC", "no-such-compiler")
    without = cli("generate", "hello", *where, "--compile")
    assert plain.stdout == fast.stdout == without.stdout
    assert "built in" in fast.stderr
    assert "compile: the choice of tokens stays torch's: no-such-compiler" in without.stderr


@pytest.mark.usefixtures("built_once")
def test_what_is_compared_can_be_compiled(cli: Cli, checkpoint: Path) -> None:
    where = ["--model", str(checkpoint), *SHORT, "--json"]
    plain, fast = (json.loads(cli("compare", "hello", *where, *more).stdout) for more in ([], ["--compile"]))
    assert (plain["compile"], fast["compile"]) == (False, True)
    examined = json.loads(cli("doctor", *where[:2], "--gen-length", "8", "--count", "1", "--compile", "--json").stdout)
    assert examined["compile"]
    assert [one["token_ids"] for one in plain["results"]] == [one["token_ids"] for one in fast["results"]]


@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_weights_are_packed_as_asked(cli: Cli, checkpoint: Path, kind: str) -> None:
    where = ["--model", str(checkpoint), *SHORT, "--quantize", kind, "--json"]
    got = json.loads(cli("generate", "hello", *where).stdout)
    (expected,) = dkv.load(checkpoint, dtype="float32", quantize=kind).generate("hello", gen_length=16, seed=3)
    assert (got["quantize"], got["token_ids"]) == (kind, expected.token_ids)
    compared = json.loads(cli("compare", "hello", *where, "--cache", "dkv-decode").stdout)
    assert (compared["quantize"], compared["results"][0]["token_ids"]) == (kind, expected.token_ids)
    examined = json.loads(cli("doctor", *where[:2], "--gen-length", "8", "--count", "1", *where[-3:]).stdout)
    assert examined["quantize"] == kind


@pytest.mark.parametrize("command", [["generate", "hi"], ["serve"]])
def test_packed_weights_are_refused_before_ranks_start(cli: Cli, command: list[str]) -> None:
    asked = [*command, "--quantize", "int8", "--tensor-parallel", "2"]
    assert "quantize='int8' does not go with tensor_parallel=2" in one_error(cli(*asked))
    asked[-3] = "int3"
    assert "quantize='int3' is unknown; known: int8, int4" in one_error(cli(*asked[:-2]))


def test_settings_reach_the_library(cli: Cli, checkpoint: Path) -> None:
    options = "--block-length 8 --steps 8 --temperature 0.5 --top-p 0.9 --top-k 5 --no-stop-at-eos --stop xyz --stop zy"
    options += " --eos-penalty 1.5 --min-tokens 4 --grow --repetition-penalty 1.25"
    spec = "dkv-decode:refresh=4,delay=2,warmup=1,shift=un"
    specs = ["--cache", spec, "--decoder", "random:seed=9", "--cache-dtype", "bfloat16"]
    result = cli("generate", "hi", "--model", str(checkpoint), *SHORT, *options.split(), *specs, "--no-chat", "--json")
    settings = json.loads(result.stdout)["settings"]
    assert settings == {
        "gen_length": 16, "block_length": 8, "steps": 8, "temperature": 0.5, "top_p": 0.9, "top_k": 5, "cfg_scale": 0.0,
        "seed": 3, "cache": spec, "decoder": "random:seed=9", "stop_at_eos": False, "cache_dtype": "bfloat16",
        "stop": ["xyz", "zy"], "eos_penalty": 1.5, "min_tokens": 4, "grow": True,
        "repetition_penalty": 1.25,
    }  # fmt: skip


def test_default_lengths_are_the_library_s(cli: Cli, checkpoint: Path) -> None:
    settings = json.loads(cli("generate", "hi", "--model", str(checkpoint), "--json").stdout)["settings"]
    assert (settings["gen_length"], settings["block_length"], settings["steps"]) == (128, 128, 128)


def test_standard_input_and_token_ids(cli: Cli, checkpoint: Path) -> None:
    common = ["--model", str(checkpoint), *SHORT, "--json"]
    piped = json.loads(cli("generate", "-", *common, input="häh?\r\n").stdout)
    typed = json.loads(cli("generate", "häh?", *common).stdout)
    assert piped["prompt_ids"] == typed["prompt_ids"]
    ids = " ".join(str(token) for token in typed["prompt_ids"])
    assert json.loads(cli("generate", ids, "--ids", *common).stdout)["token_ids"] == typed["token_ids"]


def test_a_checkpoint_without_a_tokenizer(cli: Cli, checkpoint: Path, tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((checkpoint / name).read_bytes())
    result = cli("generate", "5, 6 7", "--ids", "--model", str(tmp_path), *SHORT, "--live")
    assert result.exit_code == 0, result.output
    assert all(0 <= int(token) < EOS for token in result.stdout.split())


def test_live_without_a_terminal_is_plain(cli: Cli, checkpoint: Path) -> None:
    common = ["generate", "hello", "--model", str(checkpoint), *SHORT]
    plain, live = cli(*common), cli(*common, "--live")
    assert live.stdout == plain.stdout
    assert live.stderr.count("\n") == 1
    assert "\x1b" not in live.output


def test_compare_measures_against_the_first(cli: Cli, checkpoint: Path) -> None:
    specs = ["--cache", "none", "--cache", "dkv-decode:refresh=1", "--cache", "dkv-prefill", "--repeats", "2"]
    result = cli("compare", "hello", "--model", str(checkpoint), *SHORT, *specs, "--json")
    got = json.loads(result.stdout)
    assert [r["cache"] for r in got["results"]] == ["none", "dkv-decode:refresh=1", "dkv-prefill"]
    none, same, prefill = got["results"]
    assert none["agreement"] == same["agreement"] == 1.0
    assert none["token_ids"] == same["token_ids"]
    assert prefill["stats"]["rows_computed"] < none["stats"]["rows_computed"]
    assert {r["seed"] for r in got["results"]} == {3}


def test_compare_prints_one_table_of_none_and_decode(cli: Cli, checkpoint: Path) -> None:
    result = cli("compare", "hello", "--model", str(checkpoint), *SHORT)
    assert result.exit_code == 0, result.output
    for word in ("tokens/s", "forwards", "rows computed", "agreement", "text", "none", "dkv-decode", "(100.0%)"):
        assert word in result.stdout
    assert result.stderr == ""


def test_caches_lists_what_specs_can_name(cli: Cli) -> None:
    listed = json.loads(cli("caches", "--json").stdout)
    assert [entry["name"] for entry in listed["caches"]] == list(dkv.caches.known_caches())
    assert [entry["name"] for entry in listed["decoders"]] == list(dkv.decoders.known_decoders())
    decode = next(entry for entry in listed["caches"] if entry["name"] == "dkv-decode")
    assert decode["keys"]["refresh"] == 8
    assert all(entry["meaning"] for room in listed.values() for entry in room)
    table = cli("caches").stdout
    assert all(part in table for part in ("refresh=8", "dkv-greedy", "confidence", "seed (not set)"))


@pytest.mark.parametrize("arguments", [["--help"], [], ["generate", "--help"], ["compare", "--help"]])
def test_help(cli: Cli, arguments: list[str]) -> None:
    result = cli(*arguments)
    assert result.exit_code == 0
    assert "Usage: dkv" in result.stdout


COMMANDS = ["generate", "compare", "caches", "inspect", "convert", "bench", "report", "eval"]
COMMANDS += ["study", "doctor", "serve", "tune"]


def test_help_fits_eighty_columns(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    listed = cli("--help").stdout
    commands = listed.partition("Commands:\n")[2].splitlines()
    assert [line.split()[0] for line in commands] == COMMANDS
    assert not [line for line in commands if line.endswith("...") or not line.endswith(".")]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_sentences_without_types_of_python(cli: Cli, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    lines = cli(command, "--help").stdout.splitlines()
    assert "<" not in "".join(lines)
    records = [line.split("  ")[-1].strip() for line in lines if line.startswith("  --")]
    assert records
    assert not [text for text in records if text.startswith(("Of ", "In ", "To ", "Counts ", "Others"))]


def test_options_of_generate_are_grouped(cli: Cli) -> None:
    shown = cli("generate", "--help").stdout
    panels = [line for line in shown.splitlines() if line.endswith(":") and not line.startswith(" ")]
    assert panels[0] == "Arguments:"
    assert panels[-1] == "Options:"
    assert len(panels) == 9
    assert max(len(panel.splitlines()) for panel in shown.split("\n\n")) < 20
    sampling = shown.partition("Sampling:\n")[2].partition("\n\n")[0]
    assert [line.split()[0] for line in sampling.splitlines() if line.startswith("  --")] == [
        "--temperature", "--top-p", "--top-k", "--repetition-penalty", "--cfg-scale", "--seed",
    ]  # fmt: skip


def test_completion_is_off_altogether(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_DKV_COMPLETE", "bash_source")
    result = cli("--help")
    assert (result.exit_code, result.stderr) == (0, "")
    assert "Usage: dkv" in result.stdout


def test_version(cli: Cli) -> None:
    assert cli("--version").stdout.startswith("dkv ")


def test_a_narrow_comparison_loses_no_figure(cli: Cli, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At 60 columns every figure of the wide table is there, whole."""
    monkeypatch.setattr("dkv.cli.console._PIPE_WIDTH", 60)
    shown = cli("compare", "hello", "--model", str(checkpoint), *SHORT).stdout
    assert max(map(len, shown.splitlines())) <= 60
    assert "…" not in shown
    for heading in ("cache", "tokens/s", "forwards", "rows computed", "agreement", "text"):
        assert shown.count(f"│ {heading} ") == 2
    assert "336 (100.0%)" in shown
    assert "dkv-decode" in shown
