"""The recipe at micro size: it learns, resumes where it stopped, and exports what LLaDA's programs read."""

from __future__ import annotations

import json
import random
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer

from dkv.tiny import MODEL_DIR
from recipes.tiny.batches import BUCKETS, draw_masks, make_chunk, make_rows
from recipes.tiny.curriculum import CURRICULA, STAGES, learning_rate, stage_at
from recipes.tiny.export import export
from recipes.tiny.network import Network, Shape, initialise
from recipes.tiny.optimisers import orthogonalise
from recipes.tiny.sampler import accuracy, decode
from recipes.tiny.tasks import ALL, EVALUATED
from recipes.tiny.tiny_tokenizer import MASK, load, special_id
from recipes.tiny.train import Settings, Trainer, run

MICRO = Shape(width=32, layers=2, heads=2, hidden=48)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return load(MODEL_DIR)


def settings(folder: Path, tokens: float) -> Settings:
    return Settings(run=folder, tokens=tokens, batch=512, chunk=120, compiled=False, shape=MICRO, evaluate_tokens=1e9)


def test_resumed_run_equals_the_unbroken_one(tmp_path: Path, tokenizer: Tokenizer) -> None:
    whole = run(settings(tmp_path / "whole", 9000), tokenizer)
    broken = settings(tmp_path / "broken", 9000)
    first = Trainer(broken, tokenizer)
    stop_after(first, tokenizer, 7)
    resumed = run(broken, tokenizer)
    assert whole.clock.step == resumed.clock.step > 10
    for name, tensor in whole.network.state_dict().items():
        assert torch.equal(tensor, resumed.network.state_dict()[name]), name


def stop_after(trainer: Trainer, tokenizer: Tokenizer, steps: int) -> None:
    """Train a few steps by hand and save, as an interrupted run would."""
    s = trainer.settings
    batches = make_chunk(tokenizer, s.seed, 0, 0.0, s.batch, s.chunk)
    for batch in batches[:steps]:
        trainer.train_on(batch)
        trainer.clock.used += 1
    trainer.save()


def test_loss_falls(tmp_path: Path, tokenizer: Tokenizer) -> None:
    trainer = Trainer(settings(tmp_path, 1e6), tokenizer)
    batch = make_chunk(tokenizer, 0, 0, 0.0, 512, 120)[0]
    losses = [trainer.train_on(batch) for _ in range(60)]
    assert sum(losses[-10:]) < 0.6 * sum(losses[:10])


def test_pause_and_stop_files(tmp_path: Path, tokenizer: Tokenizer) -> None:
    (tmp_path / "PAUSE").touch()
    thread = threading.Thread(target=run, args=(settings(tmp_path, 1e12), tokenizer), daemon=True)
    thread.start()
    time.sleep(1.5)
    assert thread.is_alive()
    (tmp_path / "STOP").touch()
    (tmp_path / "PAUSE").unlink()
    thread.join(timeout=20)
    assert not thread.is_alive()
    assert (tmp_path / "state.safetensors").exists()


def test_masks_are_exact_and_inside_the_response(tokenizer: Tokenizer) -> None:
    batch = make_chunk(tokenizer, 0, 0, 0.9, 2048, 300)[0]
    hidden, weight = draw_masks(batch, torch.Generator().manual_seed(0))
    position = torch.arange(hidden.shape[1])[None]
    inside = (position >= batch.start[:, None]) & (position < batch.stop[:, None])
    assert not (hidden & ~inside).any()
    share = hidden.sum(1) / (batch.stop - batch.start)
    assert (hidden.sum(1) >= 1).all()
    assert torch.allclose(weight, (1 / share).clamp(max=5))
    order = share.sort().values  # stratified: the i-th smallest share is about (i + 1/2) / rows
    assert (order - (torch.arange(len(order)) + 0.5) / len(order)).abs().max() < 0.5 / len(order) + 0.1


def test_chunks_are_a_function_of_their_number(tokenizer: Tokenizer) -> None:
    assert make_rows(tokenizer, 1, 2, 0.5, 50) == make_rows(tokenizer, 1, 2, 0.5, 50)
    assert make_rows(tokenizer, 1, 2, 0.5, 50) != make_rows(tokenizer, 1, 3, 0.5, 50)
    for batch in make_chunk(tokenizer, 1, 2, 1.0, 4096, 600):
        assert batch.tokens.shape[1] in BUCKETS
        assert (batch.stop <= batch.tokens.shape[1]).all()


def test_curriculum_keeps_every_task_and_the_rate_decays() -> None:
    for stage in (stage for stages in CURRICULA.values() for stage in stages):
        assert set(stage.weights) == set(ALL)
        assert sum(stage.weights.values()) == pytest.approx(1)
        assert sum(stage.levels) == pytest.approx(1)
    assert stage_at(0.0) is STAGES[0]
    assert stage_at(1.0) is STAGES[-1]
    assert learning_rate(0.3, 0) < learning_rate(0.3, 500) == 1.0
    assert learning_rate(1.0, 500) == 0.0


def test_padding_changes_nothing(tokenizer: Tokenizer) -> None:
    network = Network(MICRO)
    initialise(network, special_id(tokenizer, MASK), seed=1)
    for block in network.model.transformer.blocks.parameters():
        torch.nn.init.normal_(block, 0, 0.1)
    tokens = torch.arange(1, 13)[None]
    padded = torch.cat((tokens, torch.zeros(1, 9, dtype=torch.long)), dim=1)
    length = torch.tensor([12])
    torch.testing.assert_close(network(padded, length)[:, :12], network(tokens, length), atol=1e-5, rtol=1e-5)


def test_orthogonalise() -> None:
    matrices = torch.randn(3, 24, 40, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalise(matrices))
    assert values.min() > 0.5
    assert values.max() < 1.4
    torch.testing.assert_close(orthogonalise(matrices.mT), orthogonalise(matrices).mT, atol=0.05, rtol=0.05)


def test_export_has_the_published_names(tmp_path: Path, tokenizer: Tokenizer) -> None:
    network = Network(MICRO)
    export(network, tokenizer, tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    top = {"model.transformer.wte.weight", "model.transformer.ln_f.weight", "model.transformer.ff_out.weight"}
    parts = ("attn_norm", "attn_out", "ff_norm", "ff_out", "ff_proj", "k_proj", "q_proj", "up_proj", "v_proj")
    assert set(weights) == top | {f"model.transformer.blocks.{i}.{part}.weight" for i in range(2) for part in parts}
    assert all(tensor.dtype == torch.bfloat16 for tensor in weights.values())
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["architectures"] == ["LLaDAModelLM"]
    assert config["mask_token_id"] == special_id(tokenizer, MASK) < config["vocab_size"]


def test_sampler_fills_every_mask(tokenizer: Tokenizer) -> None:
    network = Network(replace(MICRO))
    mask = special_id(tokenizer, MASK)
    initialise(network, mask, seed=0)
    response = decode(network, [[1, 2, 3], [4]], gen_length=10, steps=4, mask=mask, end=0)
    assert response.shape == (2, 10)
    assert not (response == mask).any()
    task = EVALUATED["lists"]
    assert accuracy(network, tokenizer, task, [task.evaluation(random.Random(0))], speed=16) == 0.0
