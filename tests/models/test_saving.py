"""Saving and converting: the published format, bit for bit where nothing is cast, all or nothing."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import dkv
from dkv.checkpoints.safetensors_writer import parse_size
from dkv.errors import CheckpointError, SettingError
from dkv.models.saving import convert
from tests.support.checkpoints import CONFIG, config_of, dream_config_of, tensors_of, write_checkpoint, write_tokenizer
from tests.support.warm import program


def everything(directory: Path) -> dict[str, torch.Tensor]:
    """All tensors of a directory, read by the format's own library."""
    found: dict[str, torch.Tensor] = {}
    for file in directory.glob("*.safetensors"):
        found |= load_file(file)
    return found


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype and torch.equal(one[name], other[name]) for name in one
    )


CONFIGS = {
    "llada": config_of(),
    "llada, grouped": config_of(n_kv_heads=2),
    "llada, tied": config_of(weight_tying=True, n_layers=3),
    "dream": dream_config_of(),
    "dream, tied": dream_config_of(tie_word_embeddings=True, num_key_value_heads=1),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_a_loaded_model_is_saved_as_it_was(case: str, tmp_path: Path) -> None:
    config = CONFIGS[case]
    source = write_tokenizer(write_checkpoint(tmp_path / "source", config, seed=2, shards=3))
    tensors = everything(source)
    lm = dkv.load(source, device="cpu", dtype="float32")
    lm.save(tmp_path / "saved")
    assert same(everything(tmp_path / "saved"), tensors)
    again = dkv.load(tmp_path / "saved", device="cpu", dtype="float32")
    one, other = (m.generate("abc", gen_length=8, cache="none")[0] for m in (lm, again))
    assert (one.token_ids, one.prompt_ids) == (other.token_ids, other.prompt_ids)
    assert json.loads((tmp_path / "saved/config.json").read_text()) == {**config, "torch_dtype": "float32"}
    assert sorted(p.name for p in (tmp_path / "saved").iterdir()) == [
        "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
    ]  # fmt: skip
    assert not list(tmp_path.glob(".*"))


def test_saving_casts_and_shards(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "source")
    dkv.load(source, device="cpu", dtype="float32").save(tmp_path / "saved", dtype="bfloat16", max_shard_size="20KB")
    files = sorted(p.name for p in (tmp_path / "saved").glob("*.safetensors"))
    assert files[0] == f"model-00001-of-{len(files):05}.safetensors"
    assert len(files) > 3
    index = json.loads((tmp_path / "saved/model.safetensors.index.json").read_text())
    halves = {name: tensor.bfloat16() for name, tensor in tensors_of(CONFIG).items()}
    assert same(everything(tmp_path / "saved"), halves)
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in halves.values())
    for name, file in index["weight_map"].items():
        assert name in load_file(tmp_path / "saved" / file)
    shards = (load_file(path) for path in (tmp_path / "saved").glob("*.safetensors"))
    assert all(sum(tensor.nbytes for tensor in shard.values()) <= 20_000 for shard in shards)
    assert json.loads((tmp_path / "saved/config.json").read_text())["torch_dtype"] == "bfloat16"


def test_converting_needs_no_load_and_keeps_what_is_stored(tmp_path: Path) -> None:
    mixed = {n: t if "norm" in n else t.half() for n, t in tensors_of(CONFIG).items()}
    source = write_checkpoint(tmp_path / "source", config_of(torch_dtype="float16"), mixed)
    (source / "modeling_llada.py").write_text("raise SystemExit")
    convert(source, tmp_path / "as-is", None, parse_size("5GB"))
    assert same(everything(tmp_path / "as-is"), mixed)
    assert json.loads((tmp_path / "as-is/config.json").read_text())["torch_dtype"] == "float16"
    assert not (tmp_path / "as-is/modeling_llada.py").exists()
    (tmp_path / "wide").mkdir()
    convert(source, tmp_path / "wide", torch.float32, parse_size("5GB"))
    assert same(everything(tmp_path / "wide"), {n: t.float() for n, t in mixed.items()})


def test_tensors_that_a_model_does_not_have_are_left_out(tmp_path: Path) -> None:
    extra = {**tensors_of(CONFIG), "model.transformer.blocks.0.rotary.inv_freq": torch.ones(4)}
    convert(write_checkpoint(tmp_path / "source", tensors=extra), tmp_path / "saved", None, 10**9)
    assert everything(tmp_path / "saved").keys() == tensors_of(CONFIG).keys()


@pytest.mark.parametrize("dtype_key", ["torch_dtype", "dtype"])
def test_the_dtype_of_the_config_follows(dtype_key: str, tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "source", config_of(**{dtype_key: "float32"}))
    convert(source, tmp_path / "saved", torch.bfloat16, 10**9)
    written = json.loads((tmp_path / "saved/config.json").read_text())
    assert written[dtype_key] == written["torch_dtype"] == "bfloat16"


def test_a_destination_in_use_is_refused(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "source")
    before = {p.name: p.read_bytes() for p in source.iterdir()}
    for place in (source, source / "config.json"):
        with pytest.raises(SettingError, match="is in use; give one that does not exist or is empty"):
            convert(source, place, None, 10**9)
    with pytest.raises(SettingError, match="does not exist; make it first"):
        convert(source, tmp_path / "no" / "such", None, 10**9)
    assert {p.name: p.read_bytes() for p in source.iterdir()} == before


def test_too_little_space_is_named_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_checkpoint(tmp_path / "source")
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(CheckpointError, match=r"needs [0-9]+ bytes and the disk has 1000; free some"):
        convert(source, tmp_path / "saved", None, 10**9)
    assert [p.name for p in tmp_path.iterdir()] == ["source"]


def test_a_disk_that_fills_up_leaves_nothing(tmp_path: Path) -> None:
    """A limit on file sizes fails in the middle of a file, as a full disk does."""
    source = write_checkpoint(tmp_path / "source")

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))

    command = [*program(), "convert", str(source), str(tmp_path / "saved")]
    ended = subprocess.run(command, capture_output=True, text=True, preexec_fn=limit, timeout=60, check=False)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == f"error: {tmp_path / 'saved'}: cannot be written (File too large); free some space\n"
    assert [p.name for p in tmp_path.iterdir()] == ["source"]


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "source")
    with pytest.raises(CheckpointError, match=r"cannot be written \(.*\); choose another place"):
        convert(source, tmp_path / ("x" * 250), None, 10**9)  # no room for the temporary name


def test_damage_found_on_the_way_leaves_nothing(tmp_path: Path) -> None:
    source = write_checkpoint(
        tmp_path / "source", tensors={k: v for k, v in tensors_of(CONFIG).items() if "wte" not in k}
    )
    with pytest.raises(CheckpointError, match=r"wte.* is missing"):
        convert(source, tmp_path / "saved", None, 10**9)
    assert [p.name for p in tmp_path.iterdir()] == ["source"]


def test_a_model_without_a_directory_cannot_be_saved(bare_lm: dkv.DiffusionLM, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="was not loaded from a directory"):
        dkv.DiffusionLM(bare_lm.model, None).save(tmp_path / "saved")


def test_saved_files_are_readable_as_the_user_wants(tmp_path: Path) -> None:
    convert(write_checkpoint(tmp_path / "source"), tmp_path / "saved", None, 10**9)
    plain = tmp_path / "plain"
    plain.write_text("")
    assert os.stat(tmp_path / "saved/model.safetensors").st_mode == os.stat(plain).st_mode


@pytest.mark.parametrize(("text", "size"), [("5GB", 5 * 10**9), ("1.5 mb", 1_500_000), ("200", 200), ("7kB", 7000)])
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GB", "0", "-5GB", "5TB", "5GiB", "nan", "1e3", "0.0001KB", "9" * 400])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(SettingError, match="is not a size; write it like 5GB or 200MB"):
        parse_size(text)


def test_unknown_dtypes_are_refused(bare: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="dtype='int8' is unknown; known: float32, bfloat16"):
        dkv.load(bare, device="cpu", dtype="float32").save(tmp_path / "saved", dtype="int8")


def test_code_beside_the_tokenizer_is_not_copied_and_templates_are(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "source")
    (source / "additional_chat_templates").mkdir()
    for name in ("tokenizer.py", "tokenizer.model", "chat_template.json", "additional_chat_templates/default.jinja"):
        (source / name).write_text("{}")
    convert(source, tmp_path / "saved", None, 10**9)
    found = {str(p.relative_to(tmp_path / "saved")) for p in (tmp_path / "saved").rglob("*") if p.is_file()}
    assert found == {
        "config.json", "model.safetensors", "tokenizer.model", "chat_template.json",
        "additional_chat_templates/default.jinja",
    }  # fmt: skip
