"""The first wrong step of a response: what follows it is neither right nor wrong, whatever a label says."""

from __future__ import annotations

from collections.abc import Sequence

NO_ERROR = -1
"""The first wrong step of a response without one."""


def first_wrong(labels: Sequence[float | None], threshold: float = 0) -> int:
    """The index of the first label that is at most the threshold. `NO_ERROR` if there is none.

    None is a step without a label. False counts as 0, and true as 1.
    """
    wrong = (step for step, label in enumerate(labels) if label is not None and label <= threshold)
    return next(wrong, NO_ERROR)


def labels_until(first: int, steps: int) -> list[bool | None]:
    """The labels of so many steps, given the first wrong one: right before it, wrong there, None after it."""
    if first == NO_ERROR:
        return [True] * steps
    return [True] * first + [False] + [None] * (steps - first - 1)
