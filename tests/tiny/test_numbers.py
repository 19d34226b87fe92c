"""Final numbers: the first mark that has one, whatever signs, digits and separators a model writes."""

from __future__ import annotations

import time
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dkv.tiny.numbers import final_number, marked_number

MINUSES = "-\u2010\u2011\u2012\u2013\u2212\ufe63\uff0d"


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("#### 5\n####", 5),
        ("####\n#### 7", 7),
        ("#### 17\n\nQuestion: Ann has 3 pens. How many?\n#### 7", 17),
        ("#### 17\nQ: and now?\nA: #### 7", 17),
        ("It is 17.\n\nQuestion: Ann has 3 pens.\n#### 7", 17),
        ("Question: Ann has 3 pens and 2 more?\nAnswer: 3+2=5\n#### 5", 5),
        ("Let me restate the Question: how many?\n#### 5", 5),
        ("#### Step 1: add\n3+2=5\n#### Step 2: stop\n#### 18", 18),
        ("#### The answer is 18 pens", 18),
        ("#### **18**", 18),
        ("####18", 18),
        ("#### 18 #### 3", 18),
        ("##### 18", 18),
        ("####\n18", 18),
        ("#### Answer: 18", 18),
        ("#### x = 18", 18),
        ("10-5=5", 5),
        ("(3)-5", 5),
        ("the change is -5", -5),
        ("#### 25%", 25),
        ("#### 5.", 5),
        ("#### 5.0", 5),
        ("#### .5", Decimal("0.5")),
        ("#### 0.50", Decimal("0.5")),
        ("#### $1,234,567.80", Decimal("1234567.8")),
        ("#### 1,00,000", 100000),
        ("#### 12,345", 12345),
        ("the numbers are 1, 2, 3", 3),
        ("1,2,3", 3),
        ("#### \\$1{,}000", 1000),
        ("#### \\boxed{18}", 18),
        ("So \\boxed{18} of the 24 eggs.", 18),
        ("\\boxed{3}, no: \\boxed{\\$1,200} in 7 days", 1200),
        ("\\boxed{\\dfrac{1}{4}} of 12", Decimal("0.25")),
        ("\\boxed{x} is 7", 7),
        ("\\boxed{5}\n#### 6", 6),
        ("**Answer:** 5 eggs of the 12", 5),
        ("The final answer is: $18 per day for 7 days", 18),
        ("Answer: 7. (This took 3 steps.)", 7),
        ("Answer: 7. Wait, 2 more: the answer is 9, not 7", 9),
        ("The answer is 5 + 3, which is 8", 8),
        ("The answer is not 5 but 7", 7),
        ("#### 12 + 5 = 17", 17),
        ("#### 3*4 = $12 for 2", 12),
        ("#### 20 \u2212 25 = \u22125", -5),
        ("#### 5 = 5", 5),
        ("#### 1/2", Decimal("0.5")),
        ("#### 10-12", 10),
        ("#### 3/0", 3),
        ("it is 3 / 4", Decimal("0.75")),
        ("12/4=3", 3),
        ("<think>perhaps #### 3</think>\n#### 4", 4),
        ("#### 1\u202f000", 1000),
        ("#### 1\u00a0000\u00a0000", 1000000),
        ("#### 1\u2009000.5", Decimal("1000.5")),
        ("#### 1'000", 1000),
        ("#### \u0661\u0662\u066b\u0665", Decimal("12.5")),
        ("#### \uff11\uff0c\uff10\uff10\uff12", 1002),
        ("10\u00b2", 10),
        ("", None),
        ("#### none", None),
        ("####", None),
    ],
)
def test_the_final_number_of_a_text(text: str, number: int | Decimal | None) -> None:
    assert final_number(text) == number


@pytest.mark.parametrize("minus", MINUSES)
@pytest.mark.parametrize("written", ["#### {}5", "#### {}$5", "#### ${}5", "#### {} 5", "so it is {}5", "#### **{}5**"])
def test_every_minus_is_a_sign(minus: str, written: str) -> None:
    assert final_number(written.format(minus)) == -5


def test_without_a_mark_there_is_no_marked_number() -> None:
    assert marked_number("It is 17.") is None
    assert marked_number("#### 17\n#### 3") == 17


@given(st.decimals(-(10**12), 10**12, places=3), st.booleans(), st.sampled_from(MINUSES))
def test_a_number_written_out_is_read_back(number: Decimal, grouped: bool, minus: str) -> None:
    written = f"{number:,f}" if grouped else f"{number:f}"
    assert final_number(f"1+1=2\n#### {written.replace('-', minus)} pens left of 3") == number


@given(st.text("#0123456789,.-$ Question:\n\u2212\u00a0", max_size=200))
def test_any_text_has_a_number_or_none(text: str) -> None:
    assert final_number(text) is None or isinstance(final_number(text), Decimal)


@pytest.mark.parametrize(
    "part",
    [
        "#",
        "1",
        "1,",
        "-",
        "#### ",
        "1,000",
        "\u00a0",
        "Question:",
        "#### -",
        "9.",
        "(",
        "\n",
        "\\boxed{",
        "answer is ",
        "1+",
        "1/",
        "{",
    ],
)
def test_long_answers_are_read_in_linear_time(part: str) -> None:
    began = time.process_time()
    final_number(part * 20_000)
    assert time.process_time() - began < 5
