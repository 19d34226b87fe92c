"""Begins a network with the weights of an exported LLaDA model, also where vocabulary or shape have changed since.

Embedding and head rows are matched by token; a token that the old tokenizer lacked starts as the mean of the old tokens
that spell it, so that what was learned of its parts carries over. With fewer layers the first ones and the last are
kept; key heads that are to share one become their mean; biases start at zero.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor

from recipes.tiny.network import Network
from recipes.tiny.tiny_tokenizer import load

TABLES = ("model.transformer.wte.weight", "model.transformer.ff_out.weight")


def graft(network: Network, tokenizer: Tokenizer, folder: Path) -> None:
    """Load the LLaDA model of `folder` into `network`, which has its width, heads and MLP."""
    weights = {name: tensor.float() for name, tensor in load_file(folder / "model.safetensors").items()}
    old = load(folder)
    weights |= {name: regrow(weights[name], old, tokenizer) for name in TABLES}
    layers = sum(name.endswith("q_proj.weight") for name in weights)
    fitted = {}
    for name, wanted in network.state_dict().items():
        found = weights.get(_source(name, network.shape.layers, layers))
        fitted[name] = torch.zeros_like(wanted) if found is None else _shared(found, wanted, network.shape.head)
    network.load_state_dict(fitted)


def regrow(table: Tensor, old: Tokenizer, new: Tokenizer) -> Tensor:
    """The rows [V', C] of a vocabulary table [V, C] for the new tokenizer."""
    return torch.stack([table[_spelling(old, new, token)].mean(0) for token in range(new.get_vocab_size())])


def _spelling(old: Tokenizer, new: Tokenizer, token: int) -> list[int]:
    """Ids of `old` that spell `token` of `new`."""
    name = new.id_to_token(token) or ""
    known = old.token_to_id(name)
    return [piece.id for piece in old.model.tokenize(name)] if known is None else [known]


def _source(name: str, layers: int, old_layers: int) -> str:
    """The name of a weight in the old model: its last layer stays the last."""
    return re.sub(rf"blocks\.{layers - 1}\.", f"blocks.{old_layers - 1}.", name)


def _shared(found: Tensor, wanted: Tensor, head: int) -> Tensor:
    """Key or value weights [H * D, C] as the means of the heads that share one; others as they are."""
    if found.shape == wanted.shape:
        return found
    return found.view(len(wanted) // head, -1, head, found.shape[1]).mean(1).flatten(0, 1)
