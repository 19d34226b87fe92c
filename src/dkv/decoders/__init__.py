"""Decoders: which masked positions are read, and which of them are fixed. One file per unmasking rule."""

from dkv.core.policy import Decoder
from dkv.core.registry import Registry
from dkv.decoders.random_order import RandomOrder

__all__ = ["DECODERS", "Decoder", "RandomOrder", "known_decoders", "make_decoder"]

DECODERS = Registry[Decoder](__name__, "decoder")
"""Every decoder by the name that a spec calls it."""

known_decoders, make_decoder = DECODERS.known, DECODERS.make
