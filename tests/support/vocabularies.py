"""Tokenizer files of both families: the special tokens at the published ids, and of text each byte its own id."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

__all__ = [
    "DREAM",
    "LLADA",
    "LLADA_BASE",
    "OWN_DREAM",
    "OWN_LLADA",
    "byte_symbols",
    "train_dream",
    "write_dream",
    "write_llada",
]

LLADA_BASE = {"<|startoftext|>": 126080, "<|endoftext|>": 126081, "<|mdm_mask|>": 126336}
LLADA = LLADA_BASE | {"<|start_header_id|>": 126346, "<|end_header_id|>": 126347, "<|eot_id|>": 126348}
DREAM = {
    "<|endoftext|>": 151643,
    "<|im_start|>": 151644,
    "<|im_end|>": 151645,
    "<|beginoftext|>": 151665,
    "<|mask|>": 151666,
}

OWN_LLADA = (
    "{% for message in messages %}{% if loop.first %}{{ bos_token }}{% endif %}"
    "{{ '<|start_header_id|>' + message.role + '<|end_header_id|>\n\n' + message.content | trim + '<|eot_id|>' }}"
    "{% endfor %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"
)
"""As the published one, it opens the assistant's turn whether it is asked to or not."""

OWN_DREAM = (
    "{%- if messages[0]['role'] == 'system' -%}"
    "{{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}"
    "{%- else -%}{{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}{%- endif -%}"
    "{%- for message in messages -%}{%- if message.role != 'system' or not loop.first -%}"
    "{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}{%- endif -%}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' }}{%- endif -%}"
)


def byte_symbols() -> list[str]:
    """The symbol of each byte in a byte-level vocabulary: printable ones are themselves."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]


def _bytes() -> dict[str, int]:
    return {symbol: byte for byte, symbol in enumerate(byte_symbols())}


def write_llada(directory: Path, template: str | None = None, special: dict[str, int] | None = None) -> Path:
    """A tokenizer.json whose special tokens (LLADA by default) are where LLaDA-8B has them."""
    special = LLADA if special is None else special
    tokenizer = Tokenizer(models.BPE(vocab=_bytes() | special, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.add_special_tokens(list(special))
    content = json.loads(tokenizer.to_str()) | {"decoder": {"type": "ByteLevel", **_FLAGS}}
    return _write(
        directory,
        {"tokenizer.json": content},
        {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "tokenizer_class": "PreTrainedTokenizerFast"},
        template,
    )


def write_dream(directory: Path, template: str | None = None, special: dict[str, int] | None = None) -> Path:
    """vocab.json, merges.txt and tokenizer_config.json as Dream publishes them, without any merge."""
    _write(directory, {"vocab.json": _bytes()}, _dream_settings(DREAM if special is None else special), template)
    (directory / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    return directory


def train_dream(directory: Path, texts: Iterable[str], size: int = 400) -> Path:
    """The same with merges learnt from texts; special tokens follow the vocabulary without a gap, as published."""
    learner = Tokenizer(models.BPE())
    learner.normalizer = normalizers.NFC()
    pieces = pre_tokenizers.Split(Regex(r" ?\p{L}+|\p{N}|\s+|[^\s\p{L}\p{N}]+"), behavior="isolated")
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [pieces, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=byte_symbols(), show_progress=False)
    learner.train_from_iterator(texts, trainer)
    model = json.loads(learner.to_str())["model"]
    special = {name: len(model["vocab"]) + index for index, name in enumerate(DREAM)}
    settings = _dream_settings(special) | {"tokenizer_class": "Qwen2Tokenizer"}  # transformers has no DreamTokenizer
    _write(directory, {"vocab.json": model["vocab"]}, settings, OWN_DREAM)
    lines = ["#version: 0.2", *(" ".join(pair) for pair in model["merges"])]
    (directory / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return directory


_FLAGS = {"add_prefix_space": False, "trim_offsets": False, "use_regex": False}


def _dream_settings(special: dict[str, int]) -> dict[str, Any]:
    flags = {"lstrip": False, "rstrip": False, "normalized": False, "single_word": False, "special": True}
    return {
        "added_tokens_decoder": {str(number): {"content": name, **flags} for name, number in special.items()},
        "eos_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
        "mask_token": "<|mask|>",
        "tokenizer_class": "DreamTokenizer",
        "auto_map": {"AutoTokenizer": ["tokenization_dream.DreamTokenizer", None]},
    }


def _write(directory: Path, files: dict[str, Any], settings: dict[str, Any], template: str | None) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    if template is not None:
        settings = settings | {"chat_template": template}
    for name, content in (files | {"tokenizer_config.json": settings}).items():
        (directory / name).write_text(json.dumps(content), encoding="utf-8")
    return directory
