"""Configs of published checkpoints."""

from __future__ import annotations

from tests.support.checkpoints import config_of

LLADA_8B = config_of(
    d_model=4096, n_heads=32, n_kv_heads=32, n_layers=32, mlp_hidden_size=12288, vocab_size=126464,
    embedding_size=126464, max_sequence_length=4096, rope_theta=500000.0, mask_token_id=126336, eos_token_id=126081,
    pad_token_id=126081,
)  # fmt: skip
