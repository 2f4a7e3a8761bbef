"""One object a task: its problems, who grades their answers and checks their steps."""

from __future__ import annotations

from qstep.tasks.problems import load_problems, worded
from qstep.tasks.task import (
    BUILT_IN,
    Task,
    Tasks,
    answer_classes_of,
    grade_rows,
    graded_rows,
    is_users,
    opened_thinking,
)

__all__ = [
    "BUILT_IN",
    "Task",
    "Tasks",
    "answer_classes_of",
    "grade_rows",
    "graded_rows",
    "is_users",
    "load_problems",
    "opened_thinking",
    "worded",
]
