"""The published transformers in float64, one sequence at a time: LLaDA and Dream behind the same few names.

Slow and plain on purpose: it is what the engine is checked against, and it shares no code with the package.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["Network", "Table", "dream_network", "llada_network"]

Table = list[dict[int, tuple[Tensor, Tensor]]]
"""Per layer: position to (key before rotation, value)."""

_LLADA = {
    "attn_norm": "attn_norm",
    "q": "q_proj",
    "k": "k_proj",
    "v": "v_proj",
    "o": "attn_out",
    "mlp_norm": "ff_norm",
    "gate": "ff_proj",
    "up": "up_proj",
    "down": "ff_out",
}
_DREAM = {
    "attn_norm": "input_layernorm",
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "o": "self_attn.o_proj",
    "mlp_norm": "post_attention_layernorm",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}


@dataclass(frozen=True)
class Network:
    """Weights under our own names, `{layer}.{part}.weight`, `embed.weight`, `norm.weight`, `head.weight`."""

    weights: Mapping[str, Tensor]
    layers: int
    heads: int
    groups: int
    width: int
    eps: float
    theta: float
    mask: int

    def norm(self, x: Tensor, name: str) -> Tensor:
        """Root-mean-square normalisation, then a weight."""
        scale = (x.square().mean(dim=-1, keepdim=True) + self.eps).rsqrt()
        scaled: Tensor = x * scale * self.weights[name + ".weight"]
        return scaled

    def linear(self, x: Tensor, name: str) -> Tensor:
        """A projection, with its bias where the checkpoint has one."""
        out: Tensor = x @ self.weights[name + ".weight"].T
        bias = self.weights.get(name + ".bias")
        return out if bias is None else out + bias

    def embed(self, tokens: Sequence[int]) -> Tensor:
        """The first stream [N, d]."""
        return self.weights["embed.weight"][list(tokens)]

    def attend(self, layer: int, h: Tensor, at: Sequence[int], keys: Tensor, values: Tensor) -> Tensor:
        """What the rows h [N, d] at positions `at` read from all keys and values [T, kv], projected back to [N, d].

        Keys come before rotation: position p of the table is rotated to p here.
        """
        size = self.width // self.heads
        q = self._rotate(self.linear(h, f"{layer}.q").view(len(at), self.heads, size), at)
        k = self._rotate(keys.view(len(keys), self.groups, size), range(len(keys)))
        v, out = values.view(len(values), self.groups, size), []
        for head in range(self.heads):
            group = head // (self.heads // self.groups)
            weight = (q[:, head] @ k[:, group].T / size**0.5).softmax(dim=1)
            out.append(weight @ v[:, group])
        return self.linear(torch.cat(out, dim=1), f"{layer}.o")

    def _rotate(self, heads: Tensor, at: Sequence[int]) -> Tensor:
        """heads [N, H, D] at positions `at`, the halves of D taken as pairs."""
        half = heads.shape[-1] // 2
        rate = self.theta ** (-torch.arange(half, dtype=torch.float64) / half)
        angle = (torch.tensor(list(at))[:, None] * rate)[:, None]
        low, high = heads[..., :half], heads[..., half:]
        return torch.cat((low * angle.cos() - high * angle.sin(), high * angle.cos() + low * angle.sin()), dim=-1)

    def mlp(self, layer: int, x: Tensor) -> Tensor:
        """The feed-forward part, its norm included, no residual."""
        h = self.norm(x, f"{layer}.mlp_norm")
        gate = self.linear(h, f"{layer}.gate")
        return self.linear(gate * torch.sigmoid(gate) * self.linear(h, f"{layer}.up"), f"{layer}.down")

    def logits(self, x: Tensor) -> Tensor:
        """The last norm and the head."""
        return self.linear(self.norm(x, "norm"), "head")

    def forward(self, tokens: Sequence[int], fed: Sequence[int], table: Table) -> tuple[dict[int, Tensor], Table]:
        """Logits of the fed positions, and their fresh keys and values per layer; the rest is read from the table."""
        if not fed:
            return {}, [{} for _ in table]
        x, fresh = self.embed([tokens[p] for p in fed]), []
        for layer, stored in enumerate(table):
            h = self.norm(x, f"{layer}.attn_norm")
            keys, values = self.linear(h, f"{layer}.k"), self.linear(h, f"{layer}.v")
            fresh.append({p: (keys[n], values[n]) for n, p in enumerate(fed)})
            # A KeyError here would mean that attention reads what nobody computed.
            pairs = [fresh[layer][p] if p in fresh[layer] else stored[p] for p in range(len(tokens))]
            read = torch.stack([k for k, _ in pairs]), torch.stack([v for _, v in pairs])
            x = x + self.attend(layer, h, fed, *read)
            x = x + self.mlp(layer, x)
        logits = self.logits(x)
        return {p: logits[n] for n, p in enumerate(fed)}, fresh


def llada_network(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Network:
    """LLaDA, from its config.json and its weights under their published names."""
    home = "model.transformer."
    weights = _layers(tensors, config["n_layers"], home + "blocks.", _LLADA)
    weights["embed.weight"] = tensors[home + "wte.weight"].double()
    weights["norm.weight"] = tensors[home + "ln_f.weight"].double()
    tied = config["weight_tying"]
    weights["head.weight"] = tensors[home + ("wte.weight" if tied else "ff_out.weight")].double()
    return Network(
        weights,
        layers=config["n_layers"],
        heads=config["n_heads"],
        groups=config["n_kv_heads"],
        width=config["d_model"],
        eps=config["rms_norm_eps"],
        theta=config["rope_theta"],
        mask=config["mask_token_id"],
    )


def dream_network(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Network:
    """Dream, from its config.json and its weights under their published names."""
    weights = _layers(tensors, config["num_hidden_layers"], "model.layers.", _DREAM)
    weights["embed.weight"] = tensors["model.embed_tokens.weight"].double()
    weights["norm.weight"] = tensors["model.norm.weight"].double()
    tied = config["tie_word_embeddings"]
    weights["head.weight"] = tensors["model.embed_tokens.weight" if tied else "lm_head.weight"].double()
    return Network(
        weights,
        layers=config["num_hidden_layers"],
        heads=config["num_attention_heads"],
        groups=config["num_key_value_heads"],
        width=config["hidden_size"],
        eps=config["rms_norm_eps"],
        theta=config["rope_theta"],
        mask=config["mask_token_id"],
    )


def _layers(tensors: Mapping[str, Tensor], layers: int, home: str, names: Mapping[str, str]) -> dict[str, Tensor]:
    """The weights and biases of every layer, in float64, under our names."""
    return {
        f"{layer}.{ours}.{kind}": tensors[f"{home}{layer}.{theirs}.{kind}"].double()
        for layer in range(layers)
        for ours, theirs in names.items()
        for kind in ("weight", "bias")
        if f"{home}{layer}.{theirs}.{kind}" in tensors
    }
