"""Grading: whether an answer is right, wrong or ungradable.

math-verify finds and compares answers in processes that can be killed (`pool`, `worker`). A few families of rules
(`rules`) are added, because each improves the verdicts. They find the stated answer (`extraction`), unify how numbers
are written (`spelling`), and decide what needs no algebra (`grader`).
"""

from __future__ import annotations

from importlib.metadata import version

from qstep.grading.extraction import readings, states_answer
from qstep.grading.grader import Grade, equivalent, extract_answer, grade, grade_many, warm_up

__all__ = [
    "GRADER_VERSION",
    "Grade",
    "equivalent",
    "extract_answer",
    "grade",
    "grade_many",
    "readings",
    "states_answer",
    "warm_up",
]

GRADER_VERSION = f"qstep-grading 7, math-verify {version('math-verify')}"
"""The version of the grading rules. Every row with a verdict should record it."""
