"""Texts with holes: the canvas that they make, and what came of it.

In a text `{mask}` is one position to fill, `{mask:12}` twelve; one brace more makes it literal: `{{mask}` is read as
`{mask}`, and `escape` adds that brace wherever a text needs it. As a list of parts, texts are always literal. Holes
that touch are one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from dkv.core.model import ModelConfig
from dkv.core.values import ArrayLike, as_index, plain
from dkv.engine.sequence import Request
from dkv.errors import ContextError, PromptError, SettingError
from dkv.outputs import Generation
from dkv.tokenizer import Tokenizer
from dkv.tokenizer.tokenizer import token_ids

__all__ = ["Infilling", "Part", "canvas_ids", "escape", "infilled", "region_of"]

Part = str | int | Sequence[int] | ArrayLike
"""A text, a hole of so many positions, or token ids."""

# A run of braces is tried from its start only: else a text of braces takes time with its length squared.
_HOLE = re.compile(r"(?<!\{)(\{+)mask(?::([0-9]+))?\}")
_MOST_DIGITS = 12


@dataclass(frozen=True)
class Infilling:
    """A canvas with its holes filled. holes: the token ids of each; texts: their texts; token_ids: the whole canvas;
    text: its text; generation: of the stretch from the first hole's start on, as far as its blocks reach. texts and
    text are None without a tokenizer."""

    holes: list[list[int]]
    texts: list[str] | None
    token_ids: list[int]
    text: str | None
    generation: Generation


def escape(text: str) -> str:
    """The text written so that a canvas reads it literally."""
    return _HOLE.sub(lambda found: "{" + found[0], text)


def canvas_ids(canvas: str | Sequence[Part], tokenizer: Tokenizer | None, config: ModelConfig) -> list[int | None]:
    """The token ids of a canvas, None where they are to be filled in.

    Raises PromptError where there is no hole or nothing else, or text without a tokenizer, or more than the model's
    context, and SettingError for a hole of no length.
    """
    canvas = plain(canvas)
    if not isinstance(canvas, (str, Sequence)) or isinstance(canvas, (bytes, bytearray)):
        raise PromptError(
            f"canvas: {canvas!r} is neither a text nor a list of texts, hole lengths and token ids", "canvas"
        )
    parts = _parts_of(canvas) if isinstance(canvas, str) else [plain(part) for part in canvas]
    lead, trail = _around(tokenizer) if any(isinstance(part, str) for part in parts) else ([], [])
    ids: list[int | None] = [*lead]
    for part in parts:
        ids += _ids_of(part, tokenizer, config)
        if len(ids) + len(trail) > config.context:
            message = f"canvas: is longer than the model's context of {config.context}; shorten it"
            known = sum(token is not None for token in ids) + len(trail)
            raise ContextError(message, known, len(ids) + len(trail) - known, config.context, "canvas")
    if None not in ids:
        raise PromptError("canvas: has no hole; mark one with {mask}, or one of 12 positions with {mask:12}", "canvas")
    if all(token is None for token in ids):
        raise PromptError("canvas: is all holes; give at least one token of text", "canvas")
    return [*ids, *trail]


def region_of(ids: Sequence[int | None], block_length: int | None) -> tuple[int, int]:
    """Where the first hole starts, and how far on the last one ends, in whole blocks: what is given after it fills the
    last block up. Raises SettingError where that is too little."""
    holes = [place for place, token in enumerate(ids) if token is None]
    length = holes[-1] + 1 - holes[0]
    if type(block_length) is int and block_length > 0:
        whole = -(-length // block_length) * block_length
        if holes[0] + whole > len(ids):
            raise SettingError(
                f"block_length={block_length} must divide the {length} positions from the first hole's start to the "
                "last one's end, where so little follows; leave it out for one block",
                "block_length",
            )
        length = whole
    return holes[0], length


def infilled(request: Request, generation: Generation, tokenizer: Tokenizer | None) -> Infilling:
    """What came of a request for a canvas with holes."""
    length = len(generation.token_ids)
    whole = [*request.prompt, *generation.token_ids, *(t for t in request.given[length:] if t is not None)]
    is_hole = [token is None for token in (*request.prompt, *request.given)]
    places = [list(run) for hole, run in groupby(range(len(whole)), key=is_hole.__getitem__) if hole]
    holes = [whole[run[0] : run[-1] + 1] for run in places]
    texts = None if tokenizer is None else [tokenizer.decode(hole) for hole in holes]
    return Infilling(holes, texts, whole, None if tokenizer is None else tokenizer.decode(whole), generation)


def _parts_of(text: str) -> list[Part]:
    """The literal texts and the holes of a marked text."""
    parts: list[Part] = []
    literal, end = "", 0
    for found in _HOLE.finditer(text):
        literal, end = literal + text[end : found.start()], found.end()
        if len(found[1]) > 1:
            literal += found[0][1:]
        else:
            parts += [literal, _length(found[2])]
            literal = ""
    return [part for part in (*parts, literal + text[end:]) if part != ""]


def _length(digits: str | None) -> int:
    """How many positions a hole has; of a number with no end, enough digits to be over any context."""
    return 1 if digits is None else int(digits.lstrip("0")[:_MOST_DIGITS] or 0)


def _ids_of(part: Part, tokenizer: Tokenizer | None, config: ModelConfig) -> list[int | None]:
    if isinstance(part, str):
        if tokenizer is None:
            raise PromptError("canvas: this checkpoint has no tokenizer; give lists of token ids", "canvas")
        return [*tokenizer.encode_bare(part)]
    if isinstance(part, int):
        if as_index(part) is None or part < 1:
            raise SettingError(f"canvas: a hole of {part!r} positions must have at least 1", "canvas")
        return [None] * min(part, config.context + 1)
    if not isinstance(part, Sequence) or isinstance(part, (bytes, bytearray)):
        raise PromptError(f"canvas: {part!r} is neither a text, nor a hole's length, nor token ids", "canvas")
    return [*token_ids("canvas", part, config.vocab)]


def _around(tokenizer: Tokenizer | None) -> tuple[list[int], list[int]]:
    """The ids that the tokenizer puts before and after a text, often none."""
    if tokenizer is None:
        return [], []
    bare, full = tokenizer.encode_bare("a"), tokenizer.encode("a")
    start = next((n for n in range(len(full)) if full[n : n + len(bare)] == bare), 0)
    return full[:start], full[start + len(bare) :]
