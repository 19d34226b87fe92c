"""`dkv inspect` and `dkv convert`: facts without weights, what is unsupported as a fact, damage as an error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import dkv
from tests.support.checkpoints import config_of, tensors_of, write_checkpoint, write_tokenizer
from tests.support.cli_fixtures import Cli, one_error
from tests.support.published_configs import LLADA_8B
from tests.support.vocabularies import write_llada


@pytest.fixture
def full(tmp_path: Path) -> Path:
    """The config of the 8B model, and nothing else."""
    (tmp_path / "config.json").write_text(json.dumps(LLADA_8B))
    return tmp_path / "config.json"


def facts(cli: Cli, *arguments: str) -> dict[str, Any]:
    result = cli("inspect", *arguments, "--json")
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_a_config_alone_is_enough(cli: Cli, full: Path) -> None:
    found = facts(cli, str(full), "--prompt-length", "1000", "--gen-length", "500", "--batch", "2")
    assert found["parameters"] == 8_015_581_184  # what the model's card calls 8B
    assert found["sizes"]["layers"] == 32
    assert found["ids"] == {"mask": 126336, "eos": [126081, 126348], "pad": 126081}
    assert (found["unsupported"], found["problems"], found["weights"]) == ([], [], None)
    memory = found["memory"]
    assert memory["weights"] == 2 * found["parameters"]
    assert memory["caches"]["dkv-decode"] == 2 * 32 * 2 * 32 * 1501 * 128 * 2
    assert memory["caches"]["dllm-cache"] == (2 * 32 * 2 + 31 * 2) * 1501 * 4096 * 2
    assert (memory["dtype"], memory["fits_context"]) == ("bfloat16", True)
    assert facts(cli, str(full.parent))["problems"] == [f"{full.parent}: has no *.safetensors"]


def test_memory_is_what_generating_takes(cli: Cli, tmp_path: Path) -> None:
    directory = write_checkpoint(tmp_path)
    memory = facts(cli, str(directory), "--prompt-length", "7", "--gen-length", "9", "--batch", "3")["memory"]
    model = dkv.load(directory, device="cpu", dtype="float32").model
    assert memory["caches"]["none"] == model.new_kv_cache(3, 16).nbytes
    assert memory["dtype"] == "float32"
    assert facts(cli, str(directory), "--dtype", "bfloat16")["memory"]["weights"] * 2 == memory["weights"]


def test_packed_weights_are_reckoned(cli: Cli, full: Path) -> None:
    plain, eight, four = (
        facts(cli, str(full), *q)["memory"] for q in ([], ["--quantize", "int8"], ["--quantize", "int4"])
    )
    assert (plain["quantize"], eight["quantize"], four["quantize"]) == (None, "int8", "int4")
    assert plain["weights"] > eight["weights"] > four["weights"] > 2 * 2 * 126464 * 4096
    assert "quantize='x' is unknown" in one_error(cli("inspect", str(full), "--quantize", "x"))
    assert "bfloat16, int4\n" in cli("inspect", str(full), "--quantize", "int4").stdout


def test_stored_weights_are_read_by_their_headers(cli: Cli, tmp_path: Path) -> None:
    directory = write_tokenizer(write_checkpoint(tmp_path, shards=2))
    found = facts(cli, str(directory))
    count = sum(tensor.numel() for tensor in tensors_of(config_of()).values())
    assert found["weights"] == {"files": 2, "tensors": 21, "parameters": count, "dtypes": {"F32": count}}
    assert found["parameters"] == count
    assert (found["tokenizer"], found["template"], found["problems"]) == (True, True, [])


def test_ids_are_those_that_loading_finds(cli: Cli, tmp_path: Path) -> None:
    """Ids that only the tokenizer names are found alike by inspecting, converting and loading."""
    config = config_of()
    for key in ("mask_token_id", "eos_token_id", "pad_token_id"):
        del config[key]
    source = write_tokenizer(write_checkpoint(tmp_path / "source", config, tensors_of(config)))
    assert cli("convert", str(source), str(tmp_path / "out")).exit_code == 0
    for directory in (source, tmp_path / "out"):
        c = dkv.load(directory, device="cpu", dtype="float32").model.config
        assert facts(cli, str(directory))["ids"] == {"mask": c.mask_id, "eos": list(c.eos_ids), "pad": c.pad_id}


def test_missing_and_misshapen_tensors_are_reported(cli: Cli, tmp_path: Path) -> None:
    directory = write_checkpoint(tmp_path)
    tensors = load_file(directory / "model.safetensors")
    del tensors["model.transformer.ln_f.weight"]
    tensors["model.transformer.wte.weight"] = torch.ones(3, 3)
    save_file(tensors, directory / "model.safetensors")
    shape, missing = facts(cli, str(directory))["problems"]
    assert "wte.weight' has shape [3, 3], config.json asks [272, 32]" in shape
    assert "ln_f.weight' is missing" in missing
    (directory / "config.json").write_text(json.dumps(config_of(n_layers=4000)))
    problems = facts(cli, str(directory))["problems"]
    assert (len(problems), problems[-1]) == (11, "and more")


def test_pickled_weights_are_a_problem(cli: Cli, full: Path) -> None:
    (full.parent / "pytorch_model.bin").write_bytes(b"")
    (problem,) = facts(cli, str(full.parent))["problems"]
    assert "pickled weights, which dkv never loads" in problem


@pytest.mark.parametrize("change", [{"architectures": ["LLaDAMoEModelLM"]}, {"alibi": True}, {"architectures": ["X"]}])
def test_what_is_unsupported_is_a_fact(cli: Cli, full: Path, change: dict[str, Any]) -> None:
    full.write_text(json.dumps({**LLADA_8B, **change}))
    (reason,) = facts(cli, str(full))["unsupported"]
    assert "is not supported" in reason
    printed = cli("inspect", str(full))
    assert printed.exit_code == 0
    assert f"unsupported   {reason}" in printed.stdout


TEMPLATES = {
    "{{ messages[0].content }}": ("own", "yes", None),
    None: ("llada", "none here; dkv's own format 'llada'", None),
    "{{ messages[0].text }}": ("llada", "replaced; ", "fails on a plain message (it does not print the message)"),
    "{{ raise_exception('no') }}": ("llada", "replaced; ", "fails on a plain message (no); dkv's own format 'llada'"),
    "{% for %}": ("own", "unusable; ", "is not usable (Expected an expression"),
    "{{ 'a' * 10**10 }}": (
        "own",
        "unusable; ",
        "is not usable (it needs more than 512 MB of memory); chats are refused",
    ),
}


@pytest.mark.parametrize("template", TEMPLATES)
def test_what_becomes_of_a_chat_template_is_a_fact(
    cli: Cli, template: str | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """And one line on standard error, which is where Python's logging puts a warning that nobody else takes."""
    form, printed, note = TEMPLATES[template]
    directory = write_llada(write_checkpoint(tmp_path), template)
    found = facts(cli, str(directory))
    assert (found["template"], found["chat_format"]) == (True, form)
    lines = [record.getMessage() for record in caplog.records if record.name == "dkv.tokenizer"]
    if note is None:
        assert (found["chat_note"], lines) == (None, [])
    else:
        assert note in found["chat_note"]
        assert found["chat_note"].startswith(str(directory))
        assert lines == [found["chat_note"]]
        assert "\n" not in lines[0]
    assert f"chat template {printed}" in cli("inspect", str(directory)).stdout


def test_a_page_of_text(cli: Cli) -> None:
    printed = cli("inspect", "tiny", "--gen-length", "4000")
    assert printed.exit_code == 0
    for part in ("architecture  LLaDAModelLM", "chat template yes", "4.13 million", "BEYOND THE CONTEXT", "dkv-greedy"):
        assert part in printed.stdout
    assert all(line == line.rstrip() for line in printed.stdout.splitlines())


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("{", "not valid JSON"),
        ("[]", "holds list"),
        ("{}", "architectures is missing"),
        (json.dumps({**LLADA_8B, "d_model": -1}), "d_model=-1"),
    ],
)
def test_damage_is_an_error(cli: Cli, full: Path, content: str, expected: str) -> None:
    full.write_text(content)
    assert expected in one_error(cli("inspect", str(full)))


def test_damaged_weights_are_an_error(cli: Cli, tmp_path: Path) -> None:
    directory = write_checkpoint(tmp_path)
    (directory / "model.safetensors").write_bytes(b"\xff" * 64)
    assert "not a complete safetensors file" in one_error(cli("inspect", str(directory)))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "PATH"),
        (["/no/such"], "no such directory"),
        (["tiny", "--batch", "0"], "batch=0"),
        (["tiny", "--batch", "1000000000000000000", "--gen-length", "0"], "gen_length=0"),
        (["tiny", "--prompt-length", "-1"], "prompt_length=-1"),
        (["tiny", "--dtype", "int3"], "dtype='int3' is unknown; known: auto, float32"),
    ],
)
def test_bad_usage(cli: Cli, arguments: list[str], expected: str) -> None:
    assert expected in one_error(cli("inspect", *arguments))


def test_convert_writes_and_says_what(cli: Cli, tmp_path: Path) -> None:
    done = cli("convert", "tiny", str(tmp_path / "out"), "--dtype", "float32", "--max-shard-size", "5MB")
    assert (done.exit_code, done.stdout) == (0, "")
    assert done.stderr == f"{tmp_path / 'out'}: 4 files, 0.02 GB\n"
    (one,), (other,) = (
        dkv.load(place, dtype="float32").generate("2 + 2", gen_length=8, cache="none")
        for place in ("tiny", tmp_path / "out")
    )
    assert one.token_ids == other.token_ids


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--dtype", "auto"], "dtype='auto' is unknown; known: float32"),
        (["--max-shard-size", "much"], "max_shard_size='much' is not a size"),
    ],
)
def test_refused_conversions(cli: Cli, tmp_path: Path, options: list[str], expected: str) -> None:
    assert expected in one_error(cli("convert", "tiny", str(tmp_path / "out"), *options))
    assert not (tmp_path / "out").exists()
