"""Exact step labels, for tasks that can check a step."""

from __future__ import annotations

from qstep.data import check_steps, split_steps
from qstep.types import Row


def label_exactly(row: Row, separator: str = "\n") -> Row:
    """The row with its steps in `completions` and, in `labels`, whether each step and all before it are right.

    Raises:
        ValueError: the row's task cannot check steps.
    """
    steps = split_steps(row["completion"], separator)
    return {
        **row,
        "completions": steps,
        "labels": check_steps(row, steps),
        "label_source": "exact",
        "successes": None,
        "trials": None,
    }
