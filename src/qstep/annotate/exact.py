"""Exact step labels, for tasks that can check a step."""

from __future__ import annotations

from qstep.annotate.labels import with_labels
from qstep.data import steps_of
from qstep.tasks import BUILT_IN, Tasks
from qstep.types import Row


def label_exactly(row: Row, separator: str = "\n", tasks: Tasks = BUILT_IN) -> Row:
    """The row with its steps in `completions` and, in `labels`, whether each step and all before it are right.

    Raises:
        ValueError: the row's task cannot check every step, or the row was split at another separator.
    """
    steps = steps_of(row, separator)
    labels = tasks.of(row).check_steps(row, steps)
    if None in labels:
        raise ValueError(
            f"task {row['task']!r} cannot check all steps exactly: label them with --method monte_carlo (needs a "
            "model) or --method outcome (needs none)"
        )
    return with_labels(row, steps, separator, labels, "exact")
