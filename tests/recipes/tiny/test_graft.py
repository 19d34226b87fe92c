"""A run may begin with an exported model, with a larger vocabulary, fewer layers, or Dream's shape."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer

import dkv
from dkv.tiny import MODEL_DIR
from recipes.tiny.export import dream_name, export
from recipes.tiny.graft import graft
from recipes.tiny.network import Network, Shape, initialise
from recipes.tiny.sampler import decode
from recipes.tiny.tiny_tokenizer import END, MASK, SPECIAL, extend, load, special_id

WIDTH, HEADS, HIDDEN = 32, 2, 48


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return load(MODEL_DIR)


@pytest.fixture(scope="module")
def grown(tokenizer: Tokenizer) -> Tokenizer:
    return extend(tokenizer, ["zyzzyva zyzzyvas", "quokka quokka"] * 3, tokenizer.get_vocab_size() + 8)


def network(tokenizer: Tokenizer, layers: int = 3, kv_heads: int = 0, shift: int = 0) -> Network:
    """A network with random weights that bf16 holds exactly, none of them left at zero."""
    shape = Shape(WIDTH, layers, HEADS, HIDDEN, tokenizer.get_vocab_size(), kv_heads=kv_heads, biased=bool(shift),
                  shift=shift)  # fmt: skip
    made, generator = Network(shape), torch.Generator().manual_seed(layers)
    initialise(made, special_id(tokenizer, MASK), 0)
    with torch.no_grad():
        for weight in made.parameters():
            weight.add_(0.1 * torch.randn(weight.shape, generator=generator)).copy_(weight.bfloat16())
    return made


def states(made: Network, tokenizer: Tokenizer, text: str) -> torch.Tensor:
    ids = torch.tensor([tokenizer.encode(text).ids])
    with torch.no_grad():
        hidden: torch.Tensor = made(ids, torch.tensor([ids.shape[1]]))
    return hidden


def test_new_merges_leave_old_texts_alone(tokenizer: Tokenizer, grown: Tokenizer) -> None:
    assert grown.get_vocab_size() == tokenizer.get_vocab_size() + 8
    assert [special_id(grown, s) for s in SPECIAL] == [special_id(tokenizer, s) + 8 for s in SPECIAL]
    old = "There are 42 stamps on the desk."
    assert grown.encode(old).tokens == tokenizer.encode(old).tokens
    assert len(grown.encode("zyzzyva").ids) < len(tokenizer.encode("zyzzyva").ids)
    assert grown.decode(grown.encode("zyzzyvas quokka").ids) == "zyzzyvas quokka"


def test_a_grown_vocabulary_changes_nothing_for_old_tokens(
    tmp_path: Path, tokenizer: Tokenizer, grown: Tokenizer
) -> None:
    old = network(tokenizer)
    export(old, tokenizer, tmp_path)
    new = network(grown)
    graft(new, grown, tmp_path)
    text = "There are 42 stamps on the desk."
    torch.testing.assert_close(states(new, grown, text), states(old, tokenizer, text))
    table = new.model.transformer.wte.weight
    token = next(t for t in grown.encode("zyzzyva").tokens if tokenizer.token_to_id(t) is None)
    parts = [old.model.transformer.wte.weight[p.id] for p in tokenizer.model.tokenize(token)]
    assert len(parts) > 1
    torch.testing.assert_close(table[special_id(grown, token)], torch.stack(parts).mean(0))


def test_fewer_layers_are_the_first_and_the_last(tmp_path: Path, tokenizer: Tokenizer) -> None:
    old, new = network(tokenizer, layers=3), network(tokenizer, layers=2)
    export(old, tokenizer, tmp_path)
    graft(new, tokenizer, tmp_path)
    for mine, its in ((0, 0), (1, 2)):
        name = "model.transformer.blocks.{}.ff_out.weight"
        assert torch.equal(new.state_dict()[name.format(mine)], old.state_dict()[name.format(its)])


def test_shared_key_heads_are_the_mean_of_theirs(tmp_path: Path, tokenizer: Tokenizer) -> None:
    old, new = network(tokenizer, layers=2), network(tokenizer, layers=2, kv_heads=1, shift=1)
    export(old, tokenizer, tmp_path)
    graft(new, tokenizer, tmp_path)
    name = "model.transformer.blocks.0.k_proj."
    theirs = old.state_dict()[f"{name}weight"].view(HEADS, -1, WIDTH)
    assert torch.allclose(new.state_dict()[f"{name}weight"], theirs.mean(0))
    assert not new.state_dict()[f"{name}bias"].any()


@pytest.mark.parametrize("shift", [0, 1])
def test_the_engine_says_what_the_trained_network_says(tmp_path: Path, tokenizer: Tokenizer, shift: int) -> None:
    made = network(tokenizer, kv_heads=1 if shift else 0, shift=shift)
    export(made, tokenizer, tmp_path)
    lm = dkv.load(tmp_path, dtype="float32")
    assert lm.model.config.family == ("dream" if shift else "llada")
    mask, end, rng = special_id(tokenizer, MASK), special_id(tokenizer, END), random.Random(4)
    for _ in range(5):
        prompt = [rng.randrange(1000) for _ in range(9)]
        # all at once: the two rank confidences differently, but the best token is the best token
        wanted = decode(made, [prompt], 12, 1, mask, end)[0].tolist()
        found = lm.generate([prompt], gen_length=12, steps=1, decoder="confidence", stop_at_eos=False)[0]
        assert found.token_ids == wanted


def test_a_foreign_weight_has_no_name() -> None:
    with pytest.raises(ValueError, match="no weight of the network"):
        dream_name("model.embedding")
