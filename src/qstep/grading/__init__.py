"""Whether an answer is right, wrong or ungradable.

A final answer is found in the response (`extraction`), spelled in one way (`notation`), and compared with
the gold answer: numbers exactly (`numeric`), units by conversion (`units`), structures by their parts
(`comparison`). What needs algebra and is not certain to explode (`hazards`) goes to math-verify in killable
processes (`pool`, `worker`).
"""

from __future__ import annotations

from qstep.grading.extraction import extract_answer
from qstep.grading.grader import Grade, equivalent, grade, grade_many, group_equivalent

__all__ = [
    "GRADER_VERSION",
    "Grade",
    "equivalent",
    "extract_answer",
    "grade",
    "grade_many",
    "group_equivalent",
]

GRADER_VERSION: str
"""Names the rules that gave a verdict; belongs in every row that records one."""


def __getattr__(name: str) -> str:
    if name == "GRADER_VERSION":
        from importlib.metadata import version  # slow to import, and only those who record verdicts need it

        return f"qstep-grading 1, math-verify {version('math-verify')}"
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
