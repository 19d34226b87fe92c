"""Bounds on what a checkpoint's tokenizer.json may do with a text: it comes from strangers, and the library that runs
it has none.

How far its parts can lengthen a text is reckoned from the file. A file with parts of unusual kinds, or with regular
expressions that may backtrack without end, is tried first in a process with limits (tokenizer_probe.py); the usual ones
are known to be cheap, and cost nothing here.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import tokenizers

from dkv.errors import CheckpointError
from dkv.tokenizer import tokenizer_probe

__all__ = ["check_bounds", "is_tokenizer_error"]

_MOST_GROWTH = 64
"""Times that a text may become longer."""
_MOST_PARTS = 64
_MOST_AROUND = 1024
"""Token ids that may be put around a text."""
_LONGEST_AFFIX = 64
_LONGEST_WORD = 10_000
_LONGEST_PATTERN = 4096
_MOST_REPEATS = 4
_PARTS = {
    "normalizer": "normalizers",
    "pre_tokenizer": "pretokenizers",
    "decoder": "decoders",
    "post_processor": "processors",
}
_USUAL = frozenset(
    {
        *("NFC", "NFD", "NFKC", "NFKD", "Lowercase", "Strip", "StripAccents", "BertNormalizer", "Nmt", "Prepend"),
        *("Replace", "Split", "ByteLevel", "Whitespace", "WhitespaceSplit", "Metaspace", "Punctuation", "Digits"),
        *("BertPreTokenizer", "CharDelimiterSplit", "UnicodeScripts", "Fuse", "ByteFallback", "WordPiece"),
        *("BPEDecoder", "CTC", "TemplateProcessing", "BertProcessing", "RobertaProcessing"),
    }
)


def check_bounds(content: dict[str, Any], path: Path) -> None:
    """Refuse a tokenizer that lengthens texts without bound, or does not survive a trial. Raises CheckpointError."""
    try:
        parts = {name: list(_leaves(content.get(name), inner)) for name, inner in _PARTS.items()}
        _check_parts(parts, path)
        _check_vocabulary(content["model"]["vocab"], {token["content"] for token in content["added_tokens"]}, path)
        _check_model(content["model"], path)
        usual = all(_is_usual(part) for several in parts.values() for part in several)
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError):
        raise CheckpointError(f"{path}: is not a usable tokenizer; fetch the tokenizer's files again") from None
    if not usual:
        _try(content, path)


def is_tokenizer_error(error: BaseException) -> bool:
    """Whether this is an error of the tokenizers library, or a panic in it, rather than of the surroundings."""
    return isinstance(error, Exception) or type(error).__module__ == "pyo3_runtime"


def _leaves(part: Any, inner: str) -> Iterator[dict[str, Any]]:
    """The parts that a part consists of."""
    if part is None:
        return
    if part["type"] != "Sequence":
        yield part
        return
    for item in part[inner]:
        yield from _leaves(item, inner)


def _check_parts(parts: dict[str, list[dict[str, Any]]], path: Path) -> None:
    for name, several in parts.items():
        if len(several) > _MOST_PARTS:
            raise CheckpointError(f"{path}: its {name} has {len(several)} parts, and the limit is {_MOST_PARTS}")
        growth = 1.0
        for part in several:
            growth *= max(1.0, _growth(part))
            for pattern in _patterns(part):
                if len(pattern) > _LONGEST_PATTERN:
                    raise CheckpointError(f"{path}: its {name} has a pattern of {len(pattern)} characters")
        if growth > _MOST_GROWTH:
            raise CheckpointError(f"{path}: its {name} can make a text over {_MOST_GROWTH} times longer; not run")


def _growth(part: dict[str, Any]) -> float:
    """How many times as long a text may become by a part."""
    if part["type"] == "Replace":
        pattern, content = part["pattern"], part["content"]
        literal = pattern.get("String") or ""
        return len(content) / len(literal) if literal else 1.0 + len(content)
    if part["type"] == "ByteLevel":
        return 2.0
    if part["type"] == "Prepend":
        return 1.0 if len(part["prepend"]) <= _LONGEST_AFFIX else float(len(part["prepend"]))
    if part["type"] == "TemplateProcessing":
        texts = sum("Sequence" in piece for piece in part["single"])
        added = [piece["SpecialToken"]["id"] for piece in part["single"] if "SpecialToken" in piece]
        ids = sum(len(part["special_tokens"][name]["ids"]) for name in added)
        return float(texts) if ids <= _MOST_AROUND else float(ids)
    return 1.0


def _check_vocabulary(vocab: Any, added: Collection[str], path: Path) -> None:
    """Text has tokens, each with an id of its own; added tokens may take the place of others."""
    own = {name: n for name, n in vocab.items() if name not in added} if isinstance(vocab, dict) else vocab
    if not own:
        raise CheckpointError(f"{path}: its vocabulary is empty; fetch the file again")
    if isinstance(own, dict) and len(set(own.values())) < len(own):
        first = dict[int, str]()
        one, other = next((first[n], name) for name, n in own.items() if first.setdefault(n, name) != name)
        raise CheckpointError(f"{path}: the tokens {one!r} and {other!r} have the same id; fetch the file again")


def _check_model(model: dict[str, Any], path: Path) -> None:
    for name in ("continuing_subword_prefix", "end_of_word_suffix"):
        if len(model.get(name) or "") > _LONGEST_AFFIX:
            raise CheckpointError(f"{path}: {name} is longer than {_LONGEST_AFFIX} characters")
    if (model.get("max_input_chars_per_word") or 0) > _LONGEST_WORD:
        raise CheckpointError(f"{path}: max_input_chars_per_word={model['max_input_chars_per_word']} is over 10000")


def _is_usual(part: dict[str, Any]) -> bool:
    """Whether a part is known to be cheap and not to fail: the library panics over some parts, which a trial shows."""
    if part["type"] == "Replace" and (part["pattern"].get("String") == "" or any(map(_may_be_empty, _patterns(part)))):
        return False
    if part["type"] == "Strip" and max(part.get("start") or 0, part.get("stop") or 0) > 1:
        return False
    return part["type"] in _USUAL and all(_is_cheap(pattern) for pattern in _patterns(part))


_OPTIONAL = re.compile(r"[*?{|(^$]|\\[bBAzZGK]")


def _may_be_empty(pattern: str) -> bool:
    """Whether a regular expression may match nothing at all; cautious, as below."""
    return not pattern or _OPTIONAL.search(pattern) is not None


def _patterns(part: dict[str, Any]) -> list[str]:
    """The regular expressions of a part."""
    pattern = part.get("pattern")
    return [pattern["Regex"]] if isinstance(pattern, dict) and isinstance(pattern.get("Regex"), str) else []


_PIECE = re.compile(r"\\.|\[\^?\]?|\]|\(\?[:=!imsx<>-]*|\(|\)|[*+?]|\{[0-9]*,?[0-9]*\}|\||.", re.DOTALL)


def _is_cheap(pattern: str) -> bool:
    """Whether no part of a regular expression that is repeated can match one text in several ways: then a failing match
    takes few tries. Cautious: what it does not follow is not cheap."""
    in_class, groups, repeats = 0, [False], 0  # of each open group: whether it offers choices
    closed = False  # whether the group that ended just before offers choices
    for found in _PIECE.finditer(pattern):
        piece, was_closed, closed = found[0], closed, False
        if piece[0] == "\\":
            if piece[1:].isdigit():
                return False
        elif piece[0] in "[]":
            in_class = max(0, in_class + (1 if piece[0] == "[" else -1))
        elif in_class:
            continue
        elif piece[0] == "(":
            groups.append(False)
        elif piece[0] == ")":
            if len(groups) == 1:
                return False
            closed = groups.pop()
            groups[-1] = groups[-1] or closed
        elif piece[0] == "|":
            groups[-1], repeats = True, 0
        elif piece[0] in "*+?" or (piece[0] == "{" and len(piece) > 1):
            once = re.fullmatch(r"\?|\{[01]?(,1)?\}", piece) is not None
            groups[-1], repeats = True, repeats + (not once)
            if (was_closed and not once) or repeats > _MOST_REPEATS:
                return False
    return True


def _try(content: dict[str, Any], path: Path) -> None:
    """Run the tokenizer on texts of many kinds in a process with limits. Raises CheckpointError."""
    code = "import sys, runpy; sys.path += sys.argv[2:]; runpy.run_path(sys.argv[1], run_name='__main__')"
    folder = str(Path(tokenizers.__file__).parent.parent)
    try:
        done = subprocess.run(  # noqa: S603 - this package's own code; the tokenizer is its input
            [sys.executable, "-I", "-S", "-c", code, str(tokenizer_probe.__file__), folder],
            input=json.dumps(content).encode(),
            capture_output=True,
            timeout=tokenizer_probe.PATIENCE,
            start_new_session=True,
        )
        reason = done.stdout.decode(errors="replace").strip() if done.returncode == 0 else _LIMITS
    except subprocess.TimeoutExpired:
        reason = _LIMITS
    except OSError as error:
        reason = f"its trial cannot be started: {error}"
    if reason != "fine":
        raise CheckpointError(f"{path}: is not a usable tokenizer ({' '.join(reason.split())[:300]})")


_LIMITS = "it takes too much time or memory for a short text"
