"""What studies run below `lm.generate`: its settings, ids and runs in their plainest form, at temperature 0."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from dkv.caches import make_cache
from dkv.core.policy import CachePolicy
from dkv.decoders import make_decoder
from dkv.errors import PromptError
from dkv.lab.common.engine_batch import EngineBatch, requests_of
from dkv.lab.eval.turns import Turns, as_prompt
from dkv.lm import DiffusionLM
from dkv.params import ResolvedParams, SamplingParams
from dkv.tokenizer import Tokenizer

__all__ = ["ids_of", "run_of", "settings_for"]


def settings_for(
    cache: str | CachePolicy, gen: int, block: int, decoder: str = "confidence", stop_at_eos: bool = False
) -> ResolvedParams:
    """One token a step in blocks of `block`. Raises SpecError for an unknown cache or decoder."""
    params = SamplingParams(gen_length=gen, block_length=block, stop_at_eos=stop_at_eos)
    return params.resolve(make_cache(cache) if isinstance(cache, str) else cache, make_decoder(decoder), 0)


def ids_of(lm: DiffusionLM, asked: Sequence[str | Turns]) -> list[list[int]]:
    """Texts and whole conversations as `generate` would encode them. Raises PromptError where the checkpoint has no
    tokenizer."""
    if lm.tokenizer is None:
        raise PromptError(f"model={lm.name!r}: this checkpoint has no tokenizer, and the prompts are texts")
    return [_encoded(lm.tokenizer, as_prompt(one, lm.tokenizer)) for one in asked]


def _encoded(tokenizer: Tokenizer, prompt: str | list[dict[str, str]]) -> list[int]:
    if isinstance(prompt, str) and not tokenizer.has_template:
        return tokenizer.encode(prompt)
    return tokenizer.encode_chat(prompt)


def run_of(
    lm: DiffusionLM,
    ids: Sequence[Sequence[int]],
    settings: ResolvedParams,
    seeds: Sequence[int] | None = None,
    cache_dtype: str | None = None,
) -> EngineBatch:
    """A run of prompts that were checked, in one batch. seeds: None = 0 each; cache_dtype: None = the model's."""
    settings = replace(settings, cache_dtype=cache_dtype)
    requests = requests_of(ids, [0] * len(ids) if seeds is None else seeds, settings)
    return EngineBatch(lm.model, lm.tokenizer, requests, lm.bucket)
