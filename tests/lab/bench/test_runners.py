"""Token by token, against a slow second way to compute the same."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from dkv.lab.bench.flops import flops
from dkv.lab.bench.runners import Autoregressive, autoregressive_work
from dkv.layers.cpu_linear import linear
from dkv.layers.transformer import attention
from dkv.models import Transformer
from tests.support.counting import counting


def next_token(model: Transformer, ids: list[int]) -> int:
    """The likeliest after ids, every row attending to itself and those before, all computed anew."""
    x = F.embedding(torch.tensor(ids), model.embedding)
    model.rotary.reach(len(ids))
    turn = model.rotary.turn(torch.arange(len(ids)))
    for block in model.blocks:
        h = block.norm(x, block.attn_norm)
        (q, k), v = block.qk(h, turn), block.value(h)
        q, k, v = (t.transpose(0, 1)[None] for t in (q, k, v))
        rows = range(len(ids))
        mixed = [attention(q[:, :, r : r + 1], k[:, :, : r + 1], v[:, :, : r + 1], None) for r in rows]
        x = x + linear(torch.cat([one.transpose(1, 2).flatten(2)[0] for one in mixed]), block.out_weight)
        x = x + block.mlp(x)
    return int(model.logits(x[-1:]).argmax())


@pytest.mark.parametrize("family", ["llada", "grouped", "dream"])
def test_it_says_what_computing_all_anew_says(
    family: str, model: Transformer, grouped: Transformer, dream: Transformer
) -> None:
    network = {"llada": model, "grouped": grouped, "dream": dream}[family]
    prompts = [[3, 1, 4, 1, 5], [9, 2, 6, 5, 3]]
    run = Autoregressive(network, prompts, 4)
    while run.step():
        pass
    for prompt, made in zip(prompts, run.token_ids, strict=True):
        ids = list(prompt)
        for _ in range(4):
            ids.append(next_token(network, ids))
        assert made == ids[5:]


@pytest.mark.parametrize("batch", [1, 3])
def test_its_work_is_what_torch_counts(batch: int, model: Transformer) -> None:
    # A prompt of one token: a longer one's causal half is computed whole in parts.
    run, counted = Autoregressive(model, [[7]] * batch, 5), []
    going = True
    while going:
        with sdpa_kernel(SDPBackend.MATH), counting() as counter:
            going = run.step()
        counted.append(counter.get_total_flops())
    expected = [flops(model.config, work) for work in autoregressive_work(model.config, 1, 5, batch)]
    assert counted == [*expected, 0]


def test_the_prompt_costs_the_causal_half(model: Transformer) -> None:
    first, second, *_ = autoregressive_work(model.config, 4, 3, 2)
    assert (first.parts[0].rows, first.parts[0].pairs) == (8, 2 * (1 + 2 + 3 + 4))
    assert (second.parts[0].rows, second.parts[0].pairs) == (2, 2 * 5)
