"""What every method of labelling writes into a row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from qstep.types import Row


def with_labels(
    row: Row,
    steps: list[str],
    separator: str,
    labels: Sequence[bool | float | None],
    source: str,
    counts: Sequence[tuple[int, int]] | None = None,
    rollouts: Mapping[str, int | None] | None = None,
) -> Row:
    """The row with its steps in `completions`, their `labels`, and where these come from.

    `counts` are each step's successes and trials, where it was tried; `rollouts` is what that took, where it took any.
    """
    before = {name: value for name, value in row.items() if name != "rollouts"}
    return {
        **before,
        "completions": steps,
        "step_separator": separator,
        "labels": list(labels),
        "label_source": source,
        "successes": None if counts is None else [successes for successes, _ in counts],
        "trials": None if counts is None else [trials for _, trials in counts],
        **({} if rollouts is None else {"rollouts": dict(rollouts)}),
    }
