"""examples/data/make_chain_sums.py: what is worked out is right, by the family's own verifier."""

from __future__ import annotations

import pytest

from examples import example
from qstep.tasks import grade_rows, load_problems

SUMS = example("data/make_chain_sums")


def test_a_sum_is_worked_from_left_to_right() -> None:
    assert SUMS.worked("78 - 68 - 99 + 5") == "78 - 68 = 10\n10 - 99 = -89\n-89 + 5 = -84\n#### -84"


def test_a_thought_closes_before_the_answer() -> None:
    assert SUMS.thought("7 - 8 + 9", twice=False) == "7 - 8 = -1\n-1 + 9 = 8\n</think>\n\n#### 8"
    twice = SUMS.thought("7 - 8 + 9", twice=True)
    assert twice.count("7 - 8 = -1\n-1 + 9 = 8\n") == 2 and twice.endswith("\n</think>\n\n#### 8")


def graded(split: str, thinking: bool, **columns: object) -> list[str]:
    """The verdicts on 50 worked solutions, in which each of `columns` replaces what the solution has."""
    problems = load_problems(
        "reasoning_gym:chain_sum", options=SUMS.OPTIONS, split=split, limit=50, conversational=True
    )
    rows = [
        {**SUMS.row(number, problem, thinking=thinking), "metadata": dict(problem.metadata), **columns}
        for number, problem in enumerate(problems)
    ]
    return [grade.verdict for grade in grade_rows(rows)]


@pytest.mark.parametrize("split", ["train", "test"])
def test_worked_solutions_are_right(split: str) -> None:
    assert graded(split, thinking=False) == ["right"] * 50
    assert graded(split, thinking=True, thinking_opened="<think>") == ["right"] * 50
