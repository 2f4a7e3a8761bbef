"""The first wrong step of a response: what follows it is neither right nor wrong, whatever a label says."""

from __future__ import annotations

from collections.abc import Sequence

NO_ERROR = -1
"""The first wrong step of a response without one."""


def first_wrong(labels: Sequence[float | None]) -> int:
    """The index of the first label that is false (or 0), `NO_ERROR` where none is. None is a step without a label."""
    return next((step for step, label in enumerate(labels) if label is not None and label == 0), NO_ERROR)


def labels_until(first: int, steps: int) -> list[bool | None]:
    """The labels of so many steps, given the first wrong one: right before it, wrong there, None after it."""
    if first == NO_ERROR:
        return [True] * steps
    return [True] * first + [False] + [None] * (steps - first - 1)
