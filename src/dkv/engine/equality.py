"""Which policies, decoders and layer rules are the same one, so that their requests can be asked together.

Equality may be another package's code, so it is asked once, when a request comes, in bounded time. From then on what
is the same is one object.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from dkv.core.layer_rules import Rules

__all__ = ["alike", "alike_rules", "first_alike", "first_alike_rules"]

T = TypeVar("T")


def alike(one: object, other: object) -> bool:
    """Whether one stands for the other. Another package's class has a say about its own kind only."""
    if one is other or type(one) is not type(other):
        return one is other
    try:
        return (one == other) is True
    except Exception:
        return False


def alike_rules(one: Rules, other: Rules) -> bool:
    """`alike` for the rules of all layers."""
    return one is other or (alike(one.first, other.first) and alike(one.rest, other.rest))


def first_alike(thing: T, known: Iterable[T]) -> T:
    """The first of the known things that is alike, itself where none is."""
    return next((one for one in known if alike(one, thing)), thing)


def first_alike_rules(rules: Rules, known: Iterable[Rules]) -> Rules:
    """`first_alike` for the rules of all layers."""
    return next((one for one in known if alike_rules(one, rules)), rules)
