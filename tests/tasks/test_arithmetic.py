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


def test_math_checks_steps_up_to_what_arithmetic_shows() -> None:
    math = Tasks().named("math")
    row = {"task": "math"}
    assert math.check_steps(row, ["2+2 = 4", "so"]) == [None, None]
    assert math.check_steps(row, ["2+2 = 4", "4*2 = 9", "2+2 = 4"]) == [None, False, False]
    assert math.check_steps(row, []) == []


@needs_data
def test_on_real_solutions_it_flags_errors_and_little_else() -> None:
    """Gold solutions hold few slips (16 in all 34,197 lines); wrong responses err in arithmetic far more often."""
    gold = [json.loads(line)["answer"] for line in islice((DATA / "gsm8k_train.jsonl").open(encoding="utf-8"), 1000)]
    flagged = sum(has_false_equation(line) for answer in gold for line in answer.split("\n"))
    assert flagged <= 4
    counts = {True: [0, 0], False: [0, 0]}
    for line in islice((DATA / "gsm8k_responses.jsonl").open(encoding="utf-8"), 150):
        for response in json.loads(line)["responses"]:
            counts[response["correct"]][has_false_equation(response["text"])] += 1
    assert counts[True][1] / sum(counts[True]) < 0.006
    assert counts[False][1] / sum(counts[False]) > 0.07
