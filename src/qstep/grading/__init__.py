"""Whether an answer is right, wrong or ungradable.

math-verify finds and compares answers, in killable processes (`pool`, `worker`). Around it stand a few families
of rules (`rules`), each there because it changes verdicts for the better: where the answer is stated
(`extraction`), how numbers are written (`spelling`), and what needs no algebra (`grader`).
"""

from __future__ import annotations

from importlib.metadata import version

from qstep.grading.grader import Grade, equivalent, extract_answer, grade, grade_many, warm_up

__all__ = [
    "GRADER_VERSION",
    "Grade",
    "equivalent",
    "extract_answer",
    "grade",
    "grade_many",
    "warm_up",
]

GRADER_VERSION = f"qstep-grading 2, math-verify {version('math-verify')}"
"""Names the rules that gave a verdict; belongs in every row that records one."""
