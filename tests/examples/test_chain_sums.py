"""examples/data/make_chain_sums.py: what is worked out is right, by the family's own verifier."""

from __future__ import annotations

import pytest

from examples import example
from qstep.tasks import grade_rows, load_problems

SUMS = example("data/make_chain_sums")


def test_a_sum_is_worked_from_left_to_right() -> None:
    assert SUMS.worked("78 - 68 - 99 + 5") == "78 - 68 = 10\n10 - 99 = -89\n-89 + 5 = -84\n#### -84"


@pytest.mark.parametrize("split", ["train", "test"])
def test_worked_solutions_are_right(split: str) -> None:
    problems = load_problems(
        "reasoning_gym:chain_sum", options=SUMS.OPTIONS, split=split, limit=50, conversational=True
    )
    rows = [SUMS.row(problem) for problem in problems]
    metadata = [problem.metadata for problem in problems]
    grades = grade_rows([{**of, "metadata": dict(more)} for of, more in zip(rows, metadata, strict=True)])
    assert [grade.verdict for grade in grades] == ["right"] * 50
