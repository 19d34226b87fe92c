"""Decoders: which masked positions are read, and which of them are fixed. One file per unmasking rule."""

import sys

from dkv.core.policy import Decoder
from dkv.core.registry import discover, make
from dkv.decoders.random_order import RandomOrder

__all__ = ["Decoder", "RandomOrder", "known_decoders", "make_decoder"]


def known_decoders() -> dict[str, type]:
    """Every decoder class by the name that a spec calls it."""
    return discover(sys.modules[__name__], "dkv.decoders")


def make_decoder(spec: str) -> Decoder:
    """The decoder that a spec such as "random:seed=3" asks for. Raises SpecError."""
    decoder: Decoder = make(spec, known_decoders(), "decoder")
    return decoder
