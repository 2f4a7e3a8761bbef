"""Which equations are certainly false, and which are not for this reader to judge."""

from __future__ import annotations

import json
from itertools import islice

import pytest

from qstep.tasks import Tasks
from qstep.tasks.arithmetic import has_false_equation
from real_data import DATA, needs_data


@pytest.mark.parametrize(
    "text",
    [
        "<<16-3=12>>12",
        "So it is 16 - 3 = $<<16-3=12>>12 a day",
        "5 * $1,200 = $600",
        "the sum is 50 + 50 + 50 = 160 pounds",
        "2 \u00d7 (3 + 4) = 15",
        "10/4 = 3.5",
        "3 x 4 = 11 eggs",
        r"$2 \times 3 = 7$",
        "20 - 30 = 10",
        "2 + 2 = 4, and 4 * 2 = 9.",
        "1/3 = 0.25",
        "6$ + 3$ = 10$",
    ],
)
def test_false(text: str) -> None:
    assert has_false_equation(text)


@pytest.mark.parametrize(
    "text",
    [
        "<<16-3=13>>13",
        "10 / 3 = 3.33",  # rounded
        "2 / 3 = 0.66",  # cut off
        "7 / 2 = 3",  # whole ones
        "<<0.06*60=3.5999999999999996>>3.6",  # a calculator's float
        "8*3 = <<80*3=240>>240",  # the mark says what was meant
        "20 - 30 = -10",
        "2 + 3 = 5 * 2 = 10",  # one calculation after the other
        "50% * 10 = 5",
        "5% * 2 + 1 = 10",
        "3x + 2 = 5",
        "x^2 + 1 = 3",
        "2^3 * 4 = 32",
        "5 apples + 3 * 2 = 11",
        "1:30 + 2 = 3",
        "3 1/2 + 1 = 4 1/2",
        "12 x 1 and 1/4 = 15",
        "3 / 1/4 = 12",  # three divided by a quarter
        "500 + 600 = 1.1 thousand",
        "45 + 5 = 2x",
        "1 - 5 = 6th place",
        "1/4 + 1/4 = 1/2",
        "8 / 0 = 3",
        "(2 + 3 * 4 = 20",
        "2 + = 5",
        "6$ * 1/2 = 6$ * 0.5 = 3$",  # one calculation after the other
        "3,5 + 2 = 6",  # not thirty-five
        "2 ** 3 * 1 = 6",
        "7 // 2 * 1 = 5",
        "2 * -3 = 7",
        "2 * 3(1 + 1) = 7",
        "(1, 2) + 3 = 7",
        "cost 3\n- 2 + 2 = 4",  # an item of a list
        "f(3) * 2 = 7",
        "it is 5 = 6",
        "1" * 5000 + " + 1 = 3",
        "=" * 1000,
        "(" * 190 + "1+1" + ")" * 190 + " = 3",
        "",
    ],
)
def test_not_certainly_false(text: str) -> None:
    assert not has_false_equation(text)


TRUE_SENTENCES = [
    "3 times 4 + 2 = 14",
    "5 plus 3 - 2 = 6",
    "10 divided by 2 + 1 = 6",
    "4 multiplied by 5 - 2 = 18",
    "20 minus 3 - 2 = 15",
    "8 over 2 + 1 = 5",
    "10% of 50 + 5 = 10",
    "20% of 200 - 10 = 30",
    "half of 10 + 3 = 8",
    "twice 5 + 1 = 11",
    "double 6 - 2 = 10",
    "a third of 9 + 1 = 4",
    "the square of 3 + 1 = 10",
    "the square root of 16 + 2 = 6",
    "log 100 + 1 = 3",
    "10 mod 3 + 1 = 2",
    "the remainder of 10 / 3 = 1",
    "17 mod 5 * 2 = 4",
    "negative 3 + 5 = 2",
    "minus 4 + 6 = 2",
    "the sum of 1 to 10 + 5 = 60",
    "the average of 4 + 6 = 5",
    "sqrt 25 - 1 = 4",
    "pages 10-15 = 6 pages",
    "From 9-5 = 8 hours",
    "Monday 3-5 = 3 days",
    "30 + 30 = 1 hour",
    "She works 9 - 5 = 8 hours a day",
    "45 + 15 = 1 hr",
    "12 + 12 = 2 dozen",
    "6 + 6 = 1 dozen",
    "50 + 50 = 1 dollar",
    "50 + 50 = $1",
    "1000 + 500 = 1.5 kg",
    "3 feet + 5 - 2 = 6 feet",
    "60 * 2 = 2 hours",
    "2 hours + 30 = 150",
    "5 dozen / 2 = 30",
    "5 dozen / 2 = 2.5 dozen",
    "3 weeks * 7 = 21 days",
    "2 dozen - 4 = 20",
    "1.000 + 500 = 1.500",
    "1,5 + 2 = 3,5",
    "three + 4 = 7",
    "3! + 1 = 7",
    "C(5, 2) + 3 = 13",
    "5 choose 2 + 1 = 11",
    "\\frac{1}{2} + 1 = 1.5",
    "2\\frac{1}{2} + 1 = 3.5",
    "\\sqrt{16} + 2 = 6",
    "7 and a half + 2 - 1 = 8.5",
    "2 1/2 + 1 = 3.5",
    "2 and 1/2 + 1 = 3.5",
    "10 ÷ 4 = 2 R 2",
    "10 / 4 = 2 r2",
    "$5 each x 3 = $15",
    "15 - 3 = 12 x 2 = 24",
    "15 - 3 = 12, 12 * 2 = 24",
    "3/4 = 0.75",
    "3/4 = 75%",
    "0.1+0.2=0.3",
    "100 / 3 = 33.33",
    "2/3 = .67",
    "1/7 = 0.142857",
    "-3 + 5 = 2",
    "7 - (-3) = 10",
    "2 * -3 = -6",
    "5 x -2 = -10",
    "5 - 8 = -3",
    "5 - 8 = - 3",
    "1e3 + 5 = 1005",
    "2^3 + 1 = 9",
    "2**3 + 1 = 9",
    "10^2 - 1 = 99",
    "5² + 1 = 26",
    "5 squared + 1 = 26",
    "x1 + 2 = 5",
    "x_1 + 2 = 5",
    "if n = 5 then 3 * n + 1 = 16",
    "f(3) + 1 = 10",
    "Section 3.1 + 2 = 5.1",
    "$1,200 + $300 = $1,500",
    "1 200 + 300 = 1 500",
    "0x10 + 1 = 17",
    "binary 101 + 1 = 110",
    "11 + 2 = 1 o'clock",
    "10 pm + 4 - 2 = 12",
    "45 + 30 = 1 hour 15 minutes",
    "11 + 4 = 3 o'clock",
    "In base 8 we get 7 + 1 = 10.",
    "8 - 12 = 4 degrees below zero",
    "Is 3*4 = 13? No, 3*4 = 12.",
    "Suppose 2+2=5 were true.",
    "First, 3 times 4 + 2 = 14 eggs.",
    "Then 2+2 = 5 would be wrong.",
    "\u221a(9 + 16) = 5",  # roots
    "d = \u221a(3*3 + 4*4) = 5",
    "\u221a 16 + 2 = 6",
    "\u221b(20 + 7) = 3",
    "t = \u221a80 = \u221a(16 \u00d7 5) = 4\u221a5",
    "10 * 2 = 4\u221a25",
    "f'(2) + 1 = 5",  # derivatives
    "f\u2032(2) - 1 = 5",
    "f\u2019(2) - 1 = 5",
    "y''(0) + 2 = 7",
    "\u2211(1 + 2) = 10",
    "\u2211\u1d62\u208c\u2081\u2074 3 + 1 = 13",
    "\u00bd (3 + 5) = 4",
    "5\u00b2 (3 + 1) = 100",
    "9 + 16 = 5\u00b2",
    "9 + 16 = 5 squared",
    "2 + 6 = 2 cubed",
    "2 + 3.5 = 5 \u00bd",
    "4 * 6 = 4!",
    "4 * 6 = 4! = 24",
    "4 * 6 = 4 factorial",
    "2 * 5 = 5 choose 2",
    "1 + 1 = 10\u2082",  # in base two
    "1 + 1 = 10_2",
    "100 - 36 = 8\u22178",  # other signs for multiplication
    "150 * 2 = 3 \u2a2f 10\u00b2",
    "3 \u2022 4 + 1 = 13",
    "4 * 3 = 6 \u2022 2",
    "3 \u2716\ufe0f 4 + 1 = 13",
    "4 * 6 = 12 X 2",
    "6 * 4 = 3 times 8",
    "5 @ 3 * 2 = 30",
    "5 \u2014 3 + 1 = 3",
    "5 + \u20ac3 * 2 = 11",
    "1200000 + 300000 = 1.5 M",
    "7 \u2261 2 + 2 = 1",
]
"""Equations with words, units, clocks, bases, questions or suppositions around them, which explain them."""


@pytest.mark.parametrize("text", TRUE_SENTENCES)
def test_true_sentences_have_no_false_equation(text: str) -> None:
    assert not has_false_equation(text)


@pytest.mark.parametrize(
    "text",
    [
        "So he made 14 * 20 = 140 apples.",
        "It costs $4 + $5 = $8.",
        "She needs 6 * 2 = 11 hours.",
        "It is nice. So 2 + 2 = 5.",
        "They have a total of 4 + 6 + 18 = 38 pets.",
        "Is it so? 2 + 2 = 5.",
        "x = 4 \u2192 2 + 2 = 5",
        "\u2234 3 * 4 = 11",
        "x \u2248 3 * 4 = 11",
        "\u2705 2 + 2 = 5",
        "\u2022 2 + 2 = 5",
        "\u2460 2 + 2 = 5",
        "> 2 + 2 = 5",
        "`2 + 2 = 5`",
        "'2 + 2 = 5'",
        "\u00a35 + 3 = 9.",
        "| the sum is 2 + 2 = 5 |",
        "2 + 2 = 5 \u2717",
        "2 + 2 = 5 < 6",
        "2 + 2 = 5; 3 more make 8",
        "2 + 2 = 5 m",
        "2 + 2 = 5 times",
        "2 + 2 = 5 \u2460",
    ],
)
def test_plain_errors_in_sentences_are_found(text: str) -> None:
    assert has_false_equation(text)


def test_math_checks_steps_up_to_what_arithmetic_shows() -> None:
    math = Tasks().named("math")
    row = {"task": "math"}
    assert math.check_steps(row, ["2+2 = 4", "so"]) == [None, None]
    assert math.check_steps(row, ["2+2 = 4", "4*2 = 9", "2+2 = 4"]) == [None, False, False]
    assert math.check_steps(row, []) == []


@needs_data
def test_on_real_solutions_it_flags_errors_and_little_else() -> None:
    """Gold solutions hold few slips (11 in all 34,197 lines); wrong responses err in arithmetic far more often."""
    gold = [json.loads(line)["answer"] for line in islice((DATA / "gsm8k_train.jsonl").open(encoding="utf-8"), 1000)]
    flagged = sum(has_false_equation(line) for answer in gold for line in answer.split("\n"))
    assert flagged <= 4
    counts = {True: [0, 0], False: [0, 0]}
    for line in islice((DATA / "gsm8k_responses.jsonl").open(encoding="utf-8"), 150):
        for response in json.loads(line)["responses"]:
            counts[response["correct"]][has_false_equation(response["text"])] += 1
    assert counts[True][1] / sum(counts[True]) < 0.006
    assert counts[False][1] / sum(counts[False]) > 0.07
