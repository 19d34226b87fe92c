"""What the families' configs have in common: newer spellings of keys, and switches that change the mathematics.

Programs have moved keys over the years (`rope_theta` into `rope_parameters`, a language model's keys into
`text_config`), so one value may stand in several places. All of them are read; two that differ are an error.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from dkv.checkpoints.config_fields import Fields, shown
from dkv.errors import CheckpointError, UnsupportedModelError

__all__ = ["check_switches", "flat_config", "merge_aliases", "other_names", "rope_theta"]

_EPS = ("layer_norm_eps", "layer_norm_epsilon", "layernorm_epsilon", "norm_eps", "norm_epsilon", "rms_eps")
_ACTIVATION = ("hidden_activation", "activation_function", "activation_type", "act_fn", "hidden_act")

_NESTED = (
    *("text_config", "llm_config", "language_config", "language_model_config"),
    *("model_config", "backbone_config", "decoder_config", "transformer_config", "decoder"),
)
_OF_EACH = re.compile(
    "architectures|auto_map|model_type|_.*|transformers_version|(torch_)?dtype|use_cache|return_dict|output_.*"
)
"""Keys that a nested config has of its own."""

_ROPE_PLACES = ("rope_parameters", "rope_scaling")
_ROPE_KINDS = ("rope_type", "type")
_ROPE_NEUTRAL = {"factor": 1, "partial_rotary_factor": 1, "attention_factor": 1}

_KNOWN = frozenset(
    (
        *_ROPE_PLACES,
        "rope_theta",
        "alibi_bias_max",
        "use_sliding_window",
        "sliding_window",
        "qkv_bias",
        "attention_bias",
    )
)
"""Keys that are read elsewhere, by a family or below, though their names look like a switch's."""

_LOOKS_LIKE_A_SWITCH = re.compile(
    "soft_?cap|multiplier|residual_scale|attn_temperature|attention_temperature|embedding_(layer_?)?norm|logits?_scal|scale_logit|scal(e|ing)_(emb|attn|depth)|attn_scal|attention_scal|"
    "embed(ding)?_scale|emb_scale|scale_embedding|softmax_scale|logit_?cap|mup_|width_mult|"
    "qk_?(layer)?_?norm|query_pre_attn|expert|moe|alibi|rope|rotary|"
    "sliding|attention_window|local_attention|window_size|attention_chunk|sink|"
    "parallel_(residual|attn|block)|clip_qkv|attn_output_gate|cross_attention|bias$|bd_size|"
    "zero_centered|unit_offset|norm_type|normalization|attention_type|attn_type|attention_mode|"
    "causal|norm_after|norm_reorder|sandwich|post_norm|"
    "(vision|audio|speech|quantization|compression)_config|mrope|nope|no_rope|position_embedding_type"
)
_NEUTRAL: tuple[Any, ...] = (
    *(None, False, 0, 1, "default", "rope", "rotary", [], {}),
    *("rms", "rmsnorm", "rms_norm", "RMSNorm", "none"),
    *("full", "full_attention", "bidirectional", "eager", "sdpa", "flash_attention_2", "flash_attention_3"),
)
_MUST_HOLD = ("bidirectional", "is_bidirectional", "full_attn_mask", "use_bidirectional_attention", "pre_norm")
"""Switches that change the mathematics where they are off."""


def flat_config(raw: Mapping[str, Any]) -> dict[str, Any]:
    """config.json with the keys of a nested language model's config among its own.

    Raises CheckpointError for a key that has one value outside and another inside.
    """
    flat = dict(raw)
    for place in _NESTED:
        nested = flat.pop(place, None)
        for key, value in (nested if isinstance(nested, dict) else {}).items():
            if value is None or _OF_EACH.fullmatch(key):
                continue
            if flat.get(key) not in (None, value):
                raise CheckpointError(
                    f"config.json: {key}={flat[key]!r}, but {place}.{key}={value!r}; keep the one that is right"
                )
            flat[key] = value
    return flat


def other_names(eps: str, activation: str) -> dict[str, str]:
    """What other programs call the norms' epsilon and the activation of the MLP, with a family's own names for them."""
    return {**dict.fromkeys(_EPS, eps), **{name: activation for name in _ACTIVATION if name != activation}}


def merge_aliases(raw: Mapping[str, Any], aliases: Mapping[str, str]) -> dict[str, Any]:
    """The config with the keys of `aliases` (other name -> the family's) under the family's names too.

    Raises CheckpointError where both stand there and differ.
    """
    merged = dict(raw)
    for other, key in aliases.items():
        value = raw.get(other)
        if value is None:
            continue
        if merged.get(key) not in (None, value):
            raise CheckpointError(f"config.json: {key}={merged[key]!r}, but {other}={value!r}; keep the right one")
        merged[key] = value
    return merged


def rope_theta(raw: Mapping[str, Any], family: str, default: float) -> float:
    """The base of the rotary angles, from whichever of its places has it.

    Raises UnsupportedModelError for any scaling of positions, CheckpointError for two bases that differ.
    """
    declared = [("rope_theta", Fields(raw).number("rope_theta", default))] if raw.get("rope_theta") is not None else []
    for place in _ROPE_PLACES:
        value = raw.get(place)
        if value in (None, "default", {}):
            continue
        if not isinstance(value, dict):
            raise _no_scaling(place, value, family)
        groups = {f"{place}.{k}": v for k, v in value.items() if isinstance(v, dict)} or {place: value}
        for name, group in groups.items():
            _check_rope(name, group, place, value, family)
            if group.get("rope_theta") is not None:
                declared.append((f"{name}.rope_theta", Fields(group).number("rope_theta", default)))
    for name, theta in declared[1:]:
        if theta != declared[0][1]:
            raise CheckpointError(
                f"config.json: {declared[0][0]}={declared[0][1]:g}, but {name}={theta:g}; keep the one that is right"
            )
    return declared[0][1] if declared else default


def _check_rope(name: str, group: Mapping[str, Any], place: str, value: object, family: str) -> None:
    for key, setting in group.items():
        if key in _ROPE_KINDS:
            if setting not in (None, "default"):
                raise _no_scaling(place, value, family)
        elif key != "rope_theta" and setting not in (None, _ROPE_NEUTRAL.get(key)):
            raise UnsupportedModelError(
                f"config.json: {place}={value!r} is not supported; {family} has no {name}.{key}={setting!r}"
            )


def _no_scaling(place: str, value: object, family: str) -> UnsupportedModelError:
    return UnsupportedModelError(f"config.json: {place}={value!r} is not supported; {family} has no scaling")


def check_switches(raw: Mapping[str, Any], family: str, own: Collection[str]) -> None:
    """No key that the family does not read changes its mathematics; own: the keys that it reads itself.

    Raises UnsupportedModelError naming the first that does.
    """
    for key, value in raw.items():
        if key in own or key in _KNOWN or _is_neutral(value):
            continue
        if _LOOKS_LIKE_A_SWITCH.search(key):
            raise UnsupportedModelError(f"config.json: {key}={shown(value)} is not supported by {family} in dkv")
    for key in _MUST_HOLD:
        if raw.get(key) is False:
            raise UnsupportedModelError(f"config.json: {key}=False is not supported by {family} in dkv")
    kinds = raw.get("layer_types")
    if kinds is not None and kinds != ["full_attention"] * (len(kinds) if isinstance(kinds, list) else 0):
        raise UnsupportedModelError(
            f"config.json: layer_types={shown(kinds)} is not supported; {family} has full attention everywhere"
        )
    if raw.get("use_sliding_window") is not False and raw.get("sliding_window") is not None:
        raise UnsupportedModelError(
            f"config.json: sliding_window={raw['sliding_window']!r} is not supported; {family} has full attention "
            "(use_sliding_window=false would say that it is not used)"
        )


def _is_neutral(value: object) -> bool:
    return value is not True and any(value == neutral for neutral in _NEUTRAL)
