"""The table of other servers' fields: neutral values are taken, others refused with a reason, near names suggested."""

from __future__ import annotations

import pytest

from dkv.server.client_fields import DROPPED, NEUTRAL, OTHER_NAMES, is_neutral, near_names, refusal


@pytest.mark.parametrize("name", sorted(NEUTRAL))
def test_null_is_neutral_and_a_refusal_is_one_line_with_a_way_out(name: str) -> None:
    assert is_neutral(name, None)
    assert all(is_neutral(name, value) for value in NEUTRAL[name].values)
    assert not is_neutral(name, "no such value")
    assert ";" in refusal(name) or "instead" in refusal(name)
    assert "\n" not in refusal(name)


def test_no_field_is_in_two_tables() -> None:
    assert not NEUTRAL.keys() & DROPPED
    assert not NEUTRAL.keys() & OTHER_NAMES.keys()


@pytest.mark.parametrize(
    ("name", "value", "neutral"),
    [
        ("length_penalty", 1, True),
        ("length_penalty", 1.0, True),
        ("length_penalty", True, False),
        ("length_penalty", 1.01, False),
        ("min_p", 0.0, True),
        ("min_p", False, False),
        ("use_beam_search", False, True),
        ("use_beam_search", 0, False),
        ("stop_token_ids", [], True),
        ("stop_token_ids", [2], False),
        ("chat_template_kwargs", {}, True),
        ("chat_template_kwargs", {"enable_thinking": False}, True),
        ("chat_template_kwargs", {"enable_thinking": True}, False),
    ],
)
def test_numbers_are_compared_as_numbers_and_truth_values_as_such(name: str, value: object, neutral: bool) -> None:
    assert is_neutral(name, value) is neutral


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("temprature", ["temperature"]),
        ("max_new_tokens", ["max_tokens"]),
        ("Max-Tokens", ["max_tokens"]),
        ("n_predict", ["max_tokens"]),
        ("xyz", []),
    ],
)
def test_near_names(name: str, near: list[str]) -> None:
    assert near_names(name, ["temperature", "max_tokens", "n"]) == near
