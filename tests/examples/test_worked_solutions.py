"""examples/data/make_worked_solutions.py: what is worked out is right, by the families' own verifiers."""

from __future__ import annotations

import pytest

from examples import example
from qstep.tasks import grade_rows, load_problems

SOLUTIONS = example("data/make_worked_solutions")


def test_a_sum_is_worked_from_left_to_right() -> None:
    assert SOLUTIONS.worked_sum("78 - 68 - 99 + 5") == "78 - 68 = 10\n10 - 99 = -89\n-89 + 5 = -84\n#### -84"


def test_legs_are_added_line_by_line() -> None:
    assert SOLUTIONS.worked_legs({"chicken": 5, "beetle": 1, "sea slug": 2}) == (
        "5 chickens: 5*2=10\n1 beetle: 1*6=6, 10+6=16\n2 sea slugs: 2*0=0, 16+0=16\n#### 16"
    )


def test_a_thought_closes_before_the_answer() -> None:
    solution = SOLUTIONS.worked_sum("7 - 8 + 9")
    assert SOLUTIONS.thought(solution, twice=False) == "7 - 8 = -1\n-1 + 9 = 8\n</think>\n\n#### 8"
    twice = SOLUTIONS.thought(solution, twice=True)
    assert twice.count("7 - 8 = -1\n-1 + 9 = 8\n") == 2 and twice.endswith("\n</think>\n\n#### 8")


def graded(family: str, split: str, thinking: bool, **columns: object) -> list[str]:
    """The verdicts on 50 worked solutions, in which each of `columns` replaces what the solution has."""
    name, options = f"reasoning_gym:{family}", SOLUTIONS.OPTIONS[family]
    problems = load_problems(name, options=options, split=split, limit=50, conversational=True)
    rows = [
        {**SOLUTIONS.row(family, number, problem, thinking=thinking), "metadata": dict(problem.metadata), **columns}
        for number, problem in enumerate(problems)
    ]
    return [grade.verdict for grade in grade_rows(rows)]


@pytest.mark.parametrize("family", SOLUTIONS.WORKED)
@pytest.mark.parametrize("split", ["train", "test"])
def test_worked_solutions_are_right(family: str, split: str) -> None:
    assert graded(family, split, thinking=False) == ["right"] * 50
    assert graded(family, split, thinking=True, thinking_opened="<think>") == ["right"] * 50
