"""examples/data/make_word_problems.py: the worked solutions are right, by the family's own verifier."""

from __future__ import annotations

from examples import example
from qstep.tasks import grade_rows, load_problems


def test_worked_solutions_are_right() -> None:
    words = example("data/make_word_problems")
    problems = list(load_problems("reasoning_gym:gsm_symbolic", split="train", limit=50, conversational=True))
    rows = [{**words.row(problem), "metadata": dict(problem.metadata)} for problem in problems]
    assert [grade.verdict for grade in grade_rows(rows)] == ["right"] * 50
    assert all("\n#### " in row["completion"] and row["prompt"][0]["role"] == "user" for row in rows)
