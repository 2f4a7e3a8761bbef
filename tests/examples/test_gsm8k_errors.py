"""examples/data/make_gsm8k_errors.py: where the error is put, what follows from it, and that nothing else changes."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from examples import example
from qstep.data import check_row

QUESTION = "James bought 12 bags at $1,500 each and sold 3 of the 20 he had for $2,000 each. What did he lose?"
STEPS = [
    "He paid $1,500 x 12 = $<<1500*12=18000>>18,000.",
    "He got 2000 * 3 = $<<2000*3=6000>>6000 because 6000 is three times 2,000.",
    "So he lost 12000 dollars since 18,000 - 6000 = $<<18000-6000=12000>>12,000.",
]


@pytest.fixture(scope="module")
def made() -> ModuleType:
    return example("data/make_gsm8k_errors")


class Chooses(random.Random):
    """Chooses what it is told to, one choice after another."""

    def __init__(self, *wanted: object) -> None:
        super().__init__(0)
        self.wanted = list(wanted)

    def choice(self, options: Sequence[Any]) -> Any:
        wanted = self.wanted.pop(0)
        return next(o for o in options if (o[0] if isinstance(o, re.Match) else o) == wanted)


def test_another_number_is_written_as_the_first_and_carried_on(made: ModuleType) -> None:
    assert made.with_error(QUESTION, STEPS, (0, 0), "operand", Chooses("12", "20")) == [
        "He paid $1,500 x 20 = $30,000.",
        "He got 2000 * 3 = $6000 because 6000 is three times 2,000.",
        "So he lost 24000 dollars since 30,000 - 6000 = $24,000.",
    ]


def test_what_would_be_below_zero_is_not_used(made: ModuleType) -> None:
    assert made.with_error(QUESTION, STEPS, (2, 0), "operand", Chooses("18000", "3")) is None


def test_another_operator_changes_that_character_alone(made: ModuleType) -> None:
    wrong = made.with_error(QUESTION, STEPS, (2, 0), "operator", Chooses(5, "+"))
    assert wrong == [
        "He paid $1,500 x 12 = $18,000.",
        "He got 2000 * 3 = $6000 because 6000 is three times 2,000.",
        "So he lost 24000 dollars since 18,000 + 6000 = $24,000.",
    ]


def test_a_slip_changes_the_result_and_what_follows(made: ModuleType) -> None:
    wrong = made.with_error(QUESTION, STEPS, (1, 0), "slip", random.Random(2))
    assert wrong is not None and wrong[0] == "He paid $1,500 x 12 = $18,000."
    got = made.plain(wrong[1].split("$")[1].split()[0])
    assert got != "6000" and f"because {got} is three" in wrong[1]
    assert f"18,000 - {got} = ${made.as_in('1,000', str(18000 - int(got)))}." in wrong[2]


@pytest.mark.parametrize(
    ("expression", "value"), [("3*(4+1)", 15), ("1/4", 0.25), ("-2+5", 3), ("007", 7), ("2**9", None), ("abs(1)", None)]
)
def test_expressions_are_numbers_and_four_operators(made: ModuleType, expression: str, value: float | None) -> None:
    assert made.value_of(expression) == value


def test_rows_are_stepwise_with_the_first_error_in_its_place(made: ModuleType, tmp_path: Path) -> None:
    wrong_calculation = {"question": "1+1?", "answer": "It is 1+1 = <<1+1=3>>3\n#### 3"}
    answer = "\n".join([*STEPS, "#### 12,000"])
    (tmp_path / "train.jsonl").write_text(
        "\n".join(map(json.dumps, [{"question": QUESTION, "answer": answer}, wrong_calculation]))
    )
    rows, counts = made.make_rows(tmp_path / "train.jsonl", 3, 0)
    assert counts["left out: the answer does not follow from the marked calculations"] == 1
    right, *others = [check_row(Path("rows"), 1, row, "stepwise", need=("label", "gold")) for row in rows]
    assert right["labels"] == [True] * 4 and right["completions"][-1] == "The answer is 12000" and right["label"]
    assert len(others) == 3
    for row in others:
        first = row["labels"].index(False)
        assert row["completions"][:first] == right["completions"][:first], "the same up to the error"
        assert row["completions"][first] != right["completions"][first] and not any(row["labels"][first:])
        assert row["completions"][-1] != "The answer is 12000" and row["label"] is False
        assert "<<" not in row["completion"]
    assert made.make_rows(tmp_path / "train.jsonl", 3, 0)[0] == rows, "the same seed, the same rows"
