"""Problems in words and symbols whose final answer is a number or an expression."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from qstep.data import checked_steps, final_text
from qstep.grading import GRADER_VERSION, Grade, equivalent, grade_many
from qstep.tasks.arithmetic import has_false_equation
from qstep.types import Problem, Row


class Mathematics:
    """The task `math`: problems of files and of the Hub, graded by their final answer."""

    @property
    def version(self) -> str:
        return GRADER_VERSION

    def problems(self, split: str, *, seed: int, offset: int, limit: int | None) -> Iterable[Problem]:
        """Raises ValueError: mathematics comes from files."""
        raise ValueError("math has no problems of its own: name a file of problems, or a Hub id")

    def grade(self, rows: Sequence[Row], *, deadline_s: float) -> list[Grade]:
        pairs = [(row["gold"], final_text(row["completion"])) for row in rows]
        return grade_many(pairs, deadline_s=deadline_s) if pairs else []

    def check_steps(self, row: Row, steps: Sequence[str]) -> list[bool | None]:
        """False from the first step on that holds a false equation, as `arithmetic` finds them; None before."""
        steps = checked_steps(steps)
        false = next((t for t, step in enumerate(steps) if has_false_equation(step)), len(steps))
        return [None if t < false else False for t in range(len(steps))]

    def same_answer(self, a: str, b: str) -> bool:
        return equivalent(a, b)
