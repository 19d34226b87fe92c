"""Every error of the user's is one line on standard error and exit code 2."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.cli_fixtures import Cli, Shell, one_error


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("--gen-length 0", "gen_length=0 must be a whole number of at least 1"),
        ("--gen-length -8", "gen_length=-8"),
        ("--gen-length 12 --block-length 8", "use gen_length=16"),
        ("--block-length 0", "block_length=0"),
        ("--steps 0", "steps=0"),
        ("--gen-length 16 --block-length 8 --steps 3", "use steps=4"),
        ("--temperature -1", "temperature=-1.0"),
        ("--temperature nan", "temperature=nan"),
        ("--temperature inf", "temperature=inf"),
        ("--top-p 0", "top_p=0.0"),
        ("--top-p 1.5", "top_p=1.5"),
        ("--top-k 0", "top_k=0"),
        ("--cfg-scale -1", "cfg_scale=-1.0"),
        ("--seed -1", "seed=-1"),
        ("--seed 4611686018427387904", "seed=4611686018427387904"),
        ("--stop=", "stop=['']"),
        ("--cache nope", "unknown name 'nope'; known: dkv-decode"),
        ("--cache dkv-decode:nope=1", "unknown key 'nope'; dkv-decode takes: refresh"),
        ("--cache dkv-decode:refresh=0", "refresh=0 must be a whole number of at least 1"),
        ("--cache dkv-decode:refresh=x", "refresh='x' is not a value of type int"),
        ("--decoder nope", "unknown name 'nope'; known: confidence"),
        ("--cache-dtype nope", "cache_dtype='nope'"),
        ("--dtype nope", "dtype='nope'"),
        ("--device nope", "device='nope'"),
        ("--gen-length 9000", "exceed the model's context of 8192"),
        ("--chat", "chat=True: this checkpoint has no chat template"),
        ("--ids", "'hello' is not a list of token ids"),
        ("--svg /no/such/place/x.svg", "a directory that exists"),
        ("--svg /", "must be a file"),
    ],
)
def test_refused_settings(cli: Cli, checkpoint: Path, options: str, expected: str) -> None:
    result = cli("generate", "hello", "--model", str(checkpoint), *options.split(" "))
    assert expected in one_error(result)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["generate", "x", "--gen-length", "many"], "'--gen-length': 'many' is not a whole number"),
        (["generate", "x", "--temperature", "hot"], "'--temperature': 'hot' is not a number"),
        (["generate", "x", "--nope"], "no such option: --nope; see "),
        (["generate", "x", "--gen-lenght", "5"], "--gen-lenght; did you mean --gen-length?"),
        (["generate", "x", "--max-tokens", "5"], "--max-tokens; did you mean --gen-length?"),
        (["generate", "x", "--temp", "5"], "--temp; did you mean --temperature?"),
        (["generate", "x", "--system", "y"], "no such option: --system; see "),
        (["serve", "--tensor-paralel", "2"], "--tensor-paralel; did you mean --tensor-parallel?"),
        (["eval", "--task", "words"], "--task; did you mean --tasks?"),
        (["generate"], "give PROMPT, or --input FILE"),
        (["generate", "x", "--input", "x"], "prompt excludes input"),
        (["generate", "--live", "--input", "x"], "live excludes input"),
        (["generate", "--tensor-parallel", "2", "--input", "x"], "tensor_parallel excludes input"),
        (["generate", "x", "--device", "cpu", "--cuda-graphs"], "cuda_graphs=True needs device='cuda', not 'cpu'"),
        (["generate", "x", "--output", "x"], "output needs input"),
        (["generate", "x", "--skip-bad"], "skip_bad needs input"),
        (["generate", "--input", "x"], "give --output FILE"),
        (["generate", "--input", "/no/such/file", "--output", "x"], "input='/no/such/file' does not exist"),
        (["compare", "x", "--repeats", "0"], "repeats=0"),
        (["compare", "x", "--cache", "none", "--cache", "nope"], "unknown name 'nope'"),
        (["nope"], "'nope'"),
        (["generate", "x", "--model", "/no/such/place"], "no such directory; give 'tiny'"),
    ],
)
def test_bad_usage(cli: Cli, arguments: list[str], expected: str) -> None:
    assert expected in one_error(cli(*arguments))


@pytest.mark.parametrize("command", ["generate", "compare"])
@pytest.mark.parametrize(("given", "expected"), [("", "prompt is empty"), ("\n", "prompt is empty")])
def test_empty_prompt(cli: Cli, checkpoint: Path, command: str, given: str, expected: str) -> None:
    assert expected in one_error(cli(command, given, "--model", str(checkpoint)))


def test_damaged_checkpoints(cli: Cli, checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((checkpoint / "config.json").read_bytes())
    weights = (checkpoint / "model.safetensors").read_bytes()
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickle")
    assert "pickled weights" in one_error(cli("generate", "x", "--model", str(tmp_path)))
    (tmp_path / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    assert "not a complete safetensors file" in one_error(cli("generate", "x", "--model", str(tmp_path)))


def test_standard_input_that_is_not_utf8(cli: Cli) -> None:
    error = one_error(cli("generate", "-", input=b"caf\xe9 au lait"))
    assert "standard input is not UTF-8 text (byte 0xe9 at offset 3)" in error


def test_an_argument_that_is_not_utf8(cli: Cli) -> None:
    assert "not UTF-8" in one_error(cli("generate", "caf\udce9"))
    assert "not UTF-8" in one_error(cli("generate", "x", "--stop", "caf\udce9"))


def test_no_traceback_from_a_process_either(shell: Shell) -> None:
    ended = shell("generate", "-", input=b"\xff")
    assert (ended.returncode, ended.stdout) == (2, b"")
    assert ended.stderr.startswith(b"error: prompt: standard input")
    assert ended.stderr.count(b"\n") == 1


def test_a_bug_is_one_line_too(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(room: str) -> None:
        raise RuntimeError("first line\nsecond \x1b[31mline")

    monkeypatch.setattr("dkv.core.spec_listing.listed", broken)
    result = cli("caches")
    assert result.exit_code == 1
    assert result.stderr.startswith("error: unexpected RuntimeError: first line second \\x1b[31mline;")
    assert "DKV_TRACEBACK" in result.stderr
