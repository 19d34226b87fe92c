"""A byte-level BPE from vocab.json and merges.txt, for checkpoints of the Dream family, which ship no tokenizer.json.

Their published tokenizer is a Python file with Qwen2's rules; these are the same rules, as a tokenizer.json says them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dkv.errors import CheckpointError

__all__ = ["CLASSES", "byte_level", "merges_of"]

CLASSES = ("DreamTokenizer", "Qwen2Tokenizer", "Qwen2TokenizerFast")
"""The values of tokenizer_class that mean these rules."""

# Qwen2's pieces: contractions; letters with at most one other character before them; single digits; punctuation with
# the line ends after it; line ends; blanks, leaving the last to the next word.
_PIECES = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def byte_level(vocab: dict[str, Any], merges: list[list[str]]) -> dict[str, Any]:
    """The content of a tokenizer.json, without added tokens. vocab: token -> id; merges: pairs, first merged first."""
    split = {"type": "Split", "pattern": {"Regex": _PIECES}, "behavior": "Isolated", "invert": False}
    return {
        "version": "1.0",
        "added_tokens": [],
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, {"type": "ByteLevel", **_BYTES}]},
        "decoder": {"type": "ByteLevel", **_BYTES},
        "model": {"type": "BPE", "vocab": vocab, "merges": merges},
    }


_BYTES = {"add_prefix_space": False, "trim_offsets": False, "use_regex": False}


def merges_of(text: str, path: Path) -> list[list[str]]:
    """The pairs in a merges.txt. Raises CheckpointError, naming the line."""
    merges = []
    for number, line in enumerate(text.split("\n"), 1):
        pair = line.rstrip("\r").split(" ")
        if pair == [""] or (number == 1 and line.startswith("#version")):
            continue
        if len(pair) != 2 or not all(pair):
            raise CheckpointError(f"{path}: line {number} is not a pair of tokens; fetch the file again")
        merges.append(pair)
    return merges
