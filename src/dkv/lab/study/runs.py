"""What studies run below `lm.generate`: its settings and ids in their plainest form, at temperature 0."""

from __future__ import annotations

from collections.abc import Sequence

from dkv.caches import make_cache
from dkv.core.policy import CachePolicy
from dkv.decoders import make_decoder
from dkv.errors import PromptError
from dkv.lab.eval.questions import Turns, as_prompt
from dkv.lm import DiffusionLM
from dkv.params import ResolvedParams, SamplingParams
from dkv.tokenizer import Tokenizer

__all__ = ["ids_of", "settings_for", "tokenizer_of"]


def settings_for(
    cache: str | CachePolicy, gen: int, block: int, decoder: str = "confidence", stop_at_eos: bool = False
) -> ResolvedParams:
    """One token a step in blocks of `block`. Raises SpecError for an unknown cache or decoder."""
    params = SamplingParams(gen_length=gen, block_length=block, stop_at_eos=stop_at_eos)
    return params.resolve(make_cache(cache) if isinstance(cache, str) else cache, make_decoder(decoder), 0)


def ids_of(lm: DiffusionLM, asked: Sequence[str | Turns]) -> list[list[int]]:
    """Texts and whole conversations as `generate` would encode them. Raises PromptError where the checkpoint has no
    tokenizer."""
    tokenizer = tokenizer_of(lm)
    return [_encoded(tokenizer, as_prompt(one, tokenizer)) for one in asked]


def tokenizer_of(lm: DiffusionLM) -> Tokenizer:
    """The tokenizer of a model that is asked texts. Raises PromptError where the checkpoint has none."""
    if lm.tokenizer is None:
        raise PromptError(f"model={lm.name!r}: this checkpoint has no tokenizer, and the prompts are texts")
    return lm.tokenizer


def _encoded(tokenizer: Tokenizer, prompt: str | list[dict[str, str]]) -> list[int]:
    if isinstance(prompt, str) and not tokenizer.has_template:
        return tokenizer.encode(prompt)
    return tokenizer.encode_chat(prompt)
