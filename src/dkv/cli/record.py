"""A generation as the command line reports it: a JSON object, or one line."""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any

from dkv.core.registry import spec_of

if TYPE_CHECKING:
    from dkv.outputs import Generation, Stats
    from dkv.params import ResolvedParams

__all__ = ["record_of", "share_of", "shown_text", "summary_of"]


def record_of(generation: Generation) -> dict[str, Any]:
    """Everything that a generation carries."""
    return {
        "text": generation.text,
        "token_ids": generation.token_ids,
        "prompt_ids": generation.prompt_ids,
        "finish_reason": generation.finish_reason,
        "stats": _stats(generation.stats),
        "settings": _settings(generation.settings),
        "seed": generation.seed,
        "version": generation.version,
    }


def _stats(stats: Stats) -> dict[str, Any]:
    """The counts, with the two quotients that people read."""
    return {**asdict(stats), "rows_share": share_of(stats), "tokens_per_second": stats.tokens_per_second}


def share_of(stats: Stats) -> float:
    """Rows computed of the rows that no cache computes."""
    return stats.rows_computed / stats.rows_total if stats.rows_total else 0.0


def _settings(settings: ResolvedParams) -> dict[str, Any]:
    """The settings by name, cache and decoder as specs."""
    values = {field.name: getattr(settings, field.name) for field in fields(settings)}
    return {**values, "cache": spec_of(settings.cache), "decoder": spec_of(settings.decoder)}


def shown_text(generation: Generation) -> str:
    """The text; its token ids where the checkpoint has no tokenizer."""
    if generation.text is not None:
        return generation.text
    return " ".join(str(token) for token in generation.token_ids[: generation.stats.new_tokens])


def summary_of(generation: Generation) -> str:
    """One line of counts, and what is needed to have the same again."""
    stats = generation.stats
    return (
        f"{stats.new_tokens} tokens, {stats.forwards} steps, {stats.seconds:.2f} s, "
        f"{stats.tokens_per_second:.1f} tokens/s, {share_of(stats):.1%} of rows computed "
        f"(cache {spec_of(generation.settings.cache)}, seed {generation.seed})"
    )
