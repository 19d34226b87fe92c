"""Request fields that clients of other servers send, and what this server makes of them.

Clients of OpenAI, vLLM, SGLang and llama.cpp send fields that dkv does not have, mostly at the value that changes
nothing. Such a value is accepted; any other is refused with the reason, since an ignored field would change the answer
without a sign. To support one more field, add it to the table. Null is every field's default and is not listed.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any, Final

from dkv.params import OPTIONS

__all__ = ["DROPPED", "NEUTRAL", "OTHER_NAMES", "Neutral", "is_neutral", "near_names", "refusal"]


@dataclass(frozen=True)
class Neutral:
    """A field that dkv does not have. values: those that change nothing; reason: why others are refused."""

    values: tuple[Any, ...]
    reason: str


_TEXT_ONLY = "the model writes text only"
_NO_TOOLS = "tool calling is not supported by this server"
_NO_PENALTIES = "penalties are not supported by this server"
_NO_LOGPROBS = (
    "log-probabilities are not supported by this server: those of a position change from step to step, and none is the "
    "answer's"
)
_NO_STRUCTURE = "structured output is not supported by this server"
_NO_BEAMS = "beam search is not supported by this server"
_NO_SAMPLER = "this sampler is not supported by this server; use temperature, top_p or top_k"
_NO_BIAS = "biasing or banning tokens is not supported by this server"
_SPECIAL = "special tokens are always left out of the text"
_TEMPLATE = "a request cannot change how the chat template is rendered"
_NO_TRUNCATION = "prompts are never truncated by this server; shorten it"
_NO_TOKEN_IDS = "token ids are not returned by this server"  # noqa: S105 - tokens of text
_NO_ADAPTERS = "adapters are not supported by this server"
_NO_HIDDEN = "hidden states are not returned by this server"
_NO_IMAGES = "images are not supported by this server"

_TABLE: Final[dict[str, Neutral]] = {
    # OpenAI
    "audio": Neutral((), _TEXT_ONLY),
    "best_of": Neutral((1,), "all n choices are returned; use n"),
    "echo": Neutral((False,), "repeating the prompt is not supported by this server"),
    "frequency_penalty": Neutral((0,), _NO_PENALTIES),
    "function_call": Neutral(("none", "auto"), _NO_TOOLS),
    "functions": Neutral(([],), _NO_TOOLS),
    "logit_bias": Neutral(({}, []), _NO_BIAS),
    "logprobs": Neutral((False,), _NO_LOGPROBS),
    "modalities": Neutral((["text"],), _TEXT_ONLY),
    "parallel_tool_calls": Neutral((True, False), _NO_TOOLS),
    "prediction": Neutral((), "predicted outputs are not supported by this server"),
    "presence_penalty": Neutral((0,), _NO_PENALTIES),
    "reasoning_effort": Neutral(("none",), "the model has no such setting; use steps"),
    "response_format": Neutral(({"type": "text"},), _NO_STRUCTURE),
    "store": Neutral((False,), "nothing is stored by this server"),
    "suffix": Neutral(("",), "a conversation has no suffix; use /v1/completions"),
    "tool_choice": Neutral(("none", "auto"), _NO_TOOLS),
    "tools": Neutral(([],), _NO_TOOLS),
    "top_logprobs": Neutral((0,), _NO_LOGPROBS),
    "verbosity": Neutral(("medium",), "the model has no such setting"),
    "web_search_options": Neutral((), "web search is not supported by this server"),
    # vLLM
    "add_generation_prompt": Neutral((True,), _TEMPLATE),
    "allowed_token_ids": Neutral((), _NO_BIAS),
    "bad_words": Neutral(([],), _NO_BIAS),
    "chat_template": Neutral((), _TEMPLATE),
    "chat_template_kwargs": Neutral(({}, {"enable_thinking": False}, {"thinking": False}), _TEMPLATE),
    "continue_final_message": Neutral((False,), "continuing a message is not supported by this server"),
    "documents": Neutral(([],), "documents are not supported by this server; put them into a message"),
    "early_stopping": Neutral((False,), _NO_BEAMS),
    "flat_logprobs": Neutral((False,), _NO_LOGPROBS),
    "guided_choice": Neutral((), _NO_STRUCTURE),
    "guided_grammar": Neutral((), _NO_STRUCTURE),
    "guided_json": Neutral((), _NO_STRUCTURE),
    "guided_json_object": Neutral((False,), _NO_STRUCTURE),
    "guided_regex": Neutral((), _NO_STRUCTURE),
    "include_stop_str_in_output": Neutral((False,), "a stop text is never part of the answer"),
    "kv_transfer_params": Neutral(({},), "disaggregated serving is not supported by this server"),
    "length_penalty": Neutral((1,), _NO_BEAMS),
    "logits_processors": Neutral(([],), "logits processors are not supported by this server"),
    "media_io_kwargs": Neutral(({},), _NO_IMAGES),
    "min_p": Neutral((0,), _NO_SAMPLER),
    "mm_processor_kwargs": Neutral(({},), _NO_IMAGES),
    "priority": Neutral((0,), "requests are served first come, first served"),
    "prompt_embeds": Neutral((), "embeddings as a prompt are not supported by this server"),
    "prompt_logprobs": Neutral((False,), _NO_LOGPROBS),
    "repetition_detection": Neutral((), "stopping at repetitions is not supported by this server"),
    "repetition_penalty": Neutral((1,), _NO_PENALTIES),
    "return_token_ids": Neutral((False,), _NO_TOKEN_IDS),
    "return_tokens_as_token_ids": Neutral((False,), _NO_TOKEN_IDS),
    "skip_special_tokens": Neutral((True,), _SPECIAL),
    "stop_token_ids": Neutral(([],), "stopping at token ids is not supported by this server; use stop"),
    "structural_tag": Neutral((), _NO_STRUCTURE),
    "structured_outputs": Neutral(({},), _NO_STRUCTURE),
    "thinking_token_budget": Neutral((), "the model does not think before it answers"),
    "truncate_prompt_tokens": Neutral((), _NO_TRUNCATION),
    "use_beam_search": Neutral((False,), _NO_BEAMS),
    "vllm_xargs": Neutral(({},), "extensions of vLLM are not supported by this server"),
    # SGLang
    "custom_logit_processor": Neutral((), "logits processors are not supported by this server"),
    "custom_params": Neutral(({},), "logits processors are not supported by this server"),
    "ebnf": Neutral((), _NO_STRUCTURE),
    "json_schema": Neutral(({},), _NO_STRUCTURE),
    "lora_path": Neutral((), _NO_ADAPTERS),
    "no_stop_trim": Neutral((False,), "a stop text is never part of the answer"),
    "regex": Neutral((), _NO_STRUCTURE),
    "return_hidden_states": Neutral((False,), _NO_HIDDEN),
    "session_params": Neutral(({},), "sessions are not supported by this server; send the whole conversation"),
    "stop_regex": Neutral(([],), "stopping at patterns is not supported by this server; use stop"),
    # llama.cpp
    "dry_multiplier": Neutral((0,), _NO_PENALTIES),
    "dynatemp_range": Neutral((0,), _NO_SAMPLER),
    "grammar": Neutral(("",), _NO_STRUCTURE),
    "id_slot": Neutral((-1,), "slots are not supported by this server"),
    "image_data": Neutral(([],), _NO_IMAGES),
    "lora": Neutral(([],), _NO_ADAPTERS),
    "mirostat": Neutral((0,), _NO_SAMPLER),
    "n_indent": Neutral((0,), "a least indentation is not supported by this server"),
    "n_keep": Neutral((0, -1), _NO_TRUNCATION),
    "n_probs": Neutral((0,), _NO_LOGPROBS),
    "post_sampling_probs": Neutral((False,), _NO_LOGPROBS),
    "repeat_penalty": Neutral((1,), _NO_PENALTIES),
    "return_progress": Neutral((False,), "progress is not reported by this server; use draft"),
    "return_tokens": Neutral((False,), _NO_TOKEN_IDS),
    "samplers": Neutral(([],), _NO_SAMPLER),
    "t_max_predict_ms": Neutral((0, -1), "a limit of time for one request is not supported by this server"),
    "tfs_z": Neutral((1,), _NO_SAMPLER),
    "timings_per_token": Neutral((False,), "timings of tokens are not reported by this server"),
    "top_n_sigma": Neutral((-1, 0), _NO_SAMPLER),
    "typical_p": Neutral((1,), _NO_SAMPLER),
    "xtc_probability": Neutral((0,), _NO_SAMPLER),
    # Hugging Face, DashScope
    "do_sample": Neutral((), "give temperature instead: 0 takes the most likely token"),
    "enable_thinking": Neutral((False,), "the model does not think before it answers"),
    "num_beams": Neutral((1,), _NO_BEAMS),
    "system": Neutral((), "a system text is a message of the role system; give messages"),
}
NEUTRAL: Final = {name: field for name, field in _TABLE.items() if name not in OPTIONS}
"""Fields that dkv does not have: an option of its own is none of them."""

DROPPED: Final = frozenset(
    {
        "cache_prompt", "cache_salt", "detokenize", "dry_allowed_length", "dry_base", "dry_penalty_last_n",
        "dry_sequence_breakers", "dynatemp_exponent", "guided_decoding_backend", "guided_whitespace_pattern",
        "include_reasoning", "metadata", "mirostat_eta", "mirostat_tau", "penalize_nl", "prompt_cache_key",
        "prompt_cache_retention", "reasoning_format", "repeat_last_n", "request_id", "rid", "safety_identifier",
        "separate_reasoning", "service_tier", "spaces_between_special_tokens", "stream_reasoning", "truncation_side",
        "user", "xtc_threshold",
    }
)  # fmt: skip
"""Fields that never change an answer here: notes of the client's, hints for speed, and parameters of what is refused
anyway unless it is switched off."""

OTHER_NAMES: Final[dict[str, str]] = {
    "block_size": "block_length",
    "cfg": "cfg_scale",
    "diffusion_steps": "steps",
    "gen_length": "max_tokens",
    "guidance_scale": "cfg_scale",
    "max_completion_tokens": "max_tokens",
    "max_gen_len": "max_tokens",
    "max_gen_toks": "max_tokens",
    "max_length": "max_tokens",
    "max_new_tokens": "max_tokens",
    "max_output_tokens": "max_tokens",
    "min_new_tokens": "min_tokens",
    "n_predict": "max_tokens",
    "num_inference_steps": "steps",
    "num_predict": "max_tokens",
    "num_return_sequences": "n",
    "num_steps": "steps",
    "random_seed": "seed",
    "remasking": "decoder",
    "sampling_seed": "seed",
    "stop_sequences": "stop",
    "stop_strings": "stop",
    "temp": "temperature",
    "typical": "typical_p",
    "until": "stop",
}
"""What other programs call a field, and what OpenAI's API calls it."""

_ALIKE = 0.75
_SUGGESTED = 3


def is_neutral(name: str, value: object) -> bool:
    """Whether a field of `NEUTRAL` has a value that changes nothing."""
    return value is None or any(_same(value, neutral) for neutral in NEUTRAL[name].values)


def refusal(name: str) -> str:
    """Why a field of `NEUTRAL` is refused at other values, and the way out."""
    reason = NEUTRAL[name].reason
    return reason if ";" in reason else f"{reason}; leave it out"


def near_names(name: str, known: Iterable[str]) -> list[str]:
    """Up to three known names that a field may have been meant to be, the likeliest first."""
    spelled = name.lower().replace("-", "_")
    if spelled in OTHER_NAMES:
        return [OTHER_NAMES[spelled]]
    candidates: Collection[str] = set(known)
    return difflib.get_close_matches(spelled, sorted(candidates), n=_SUGGESTED, cutoff=_ALIKE)


def _same(value: object, neutral: object) -> bool:
    """Equal, and both truth values or neither: 1.0 is 1, but true is not."""
    return isinstance(value, bool) is isinstance(neutral, bool) and value == neutral
