"""examples/data/make_leg_counts.py: the worked solutions are right, by the family's own verifier."""

from __future__ import annotations

from examples import example
from qstep.tasks import grade_rows, load_problems


def test_worked_solutions_are_right() -> None:
    legs = example("data/make_leg_counts")
    name = "reasoning_gym:leg_counting"
    problems = list(load_problems(name, options=legs.OPTIONS, split="train", limit=50, conversational=True))
    rows = [{**legs.row(problem), "metadata": dict(problem.metadata)} for problem in problems]
    assert [grade.verdict for grade in grade_rows(rows)] == ["right"] * 50
    assert all("\n#### " in row["completion"] and row["prompt"][0]["role"] == "user" for row in rows)


def test_a_solution_adds_line_by_line() -> None:
    legs = example("data/make_leg_counts")
    assert legs.worked({"chicken": 5, "beetle": 1, "sea slug": 2}) == (
        "5 chickens: 5*2=10\n1 beetle: 1*6=6, 10+6=16\n2 sea slugs: 2*0=0, 16+0=16\n#### 16"
    )
