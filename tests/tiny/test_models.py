"""The embedded models: small enough to ship, of both families, and each knows something."""

from __future__ import annotations

import pytest

import dkv
from dkv.checkpoints.safetensors_writer import parse_size
from dkv.tiny import MODEL_DIR, MODELS, TASKS, load_eval

LIMITS = {"tiny": "25MB", "tiny-dream": "12MB", "tiny-small": "12MB"}
FAMILIES = {"tiny": "llada", "tiny-dream": "dream", "tiny-small": "llada"}


def test_the_names() -> None:
    assert list(MODELS) == sorted(LIMITS)
    assert MODELS["tiny"] == MODEL_DIR


@pytest.mark.parametrize("name", sorted(LIMITS))
def test_what_it_is(name: str) -> None:
    """Its size on disk, its family, a card, and the vocabulary that all share."""
    directory = MODELS[name]
    assert sum(path.stat().st_size for path in directory.iterdir()) <= parse_size(LIMITS[name])
    assert (directory / "README.md").read_text(encoding="utf-8").startswith(f"# {name}: ")
    assert (directory / "tokenizer.json").read_bytes() == (MODEL_DIR / "tokenizer.json").read_bytes()
    lm = dkv.load(name, device="cpu")
    config = lm.model.config
    assert config.family == FAMILIES[name]
    assert config.shift == (name == "tiny-dream")
    assert (config.kv_heads < config.heads) == (name == "tiny-dream")


@pytest.mark.parametrize("name", sorted(LIMITS))
def test_it_writes_functions_that_work(name: str) -> None:
    """The easiest task, in a few examples: far above what a damaged model reaches, which is nothing."""
    examples = load_eval("code")[:4]
    lm = dkv.load(name, device="cpu", dtype="float32")
    results = lm.generate([e.prompt for e in examples], gen_length=examples[0].gen_length, cache="none")
    right = [TASKS["code"].check(e, r.text or "") for e, r in zip(examples, results, strict=True)]
    assert sum(right) >= 2


def test_the_smaller_one_is_smaller() -> None:
    tiny, small = (dkv.load(name, device="cpu").model.config for name in ("tiny", "tiny-small"))
    assert small.layers < tiny.layers
    assert small.width == tiny.width
