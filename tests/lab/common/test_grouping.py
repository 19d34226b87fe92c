"""Groups keep the order of what is in them."""

from __future__ import annotations

from dkv.lab.common.grouping import grouped


def test_items_stay_in_their_order() -> None:
    found = grouped(["b1", "a1", "b2"], lambda text: text[0])
    assert list(found.items()) == [("b", ["b1", "b2"]), ("a", ["a1"])]
