"""The columns that every method of labelling writes into a row."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from qstep.data import TURNS, has_turns
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
    """The row with its steps in `completions`, their `labels`, and the source of the labels.

    `counts` has the successes and trials of each step, and `rollouts` the cost of the rollouts. Both are None if there
    were no rollouts.
    """
    before = {name: value for name, value in row.items() if name != "rollouts"}
    return {
        **before,
        "completions": steps,
        "step_separator": TURNS if has_turns(row.get("completion")) else separator,
        "labels": list(labels),
        "label_source": source,
        "successes": None if counts is None else [successes for successes, _ in counts],
        "trials": None if counts is None else [trials for _, trials in counts],
        **({} if rollouts is None else {"rollouts": dict(rollouts)}),
    }


def flip_labels(row: Row, share: float, seed: int) -> Row:
    """The row with each hard label flipped with probability `share`, drawn by the row's id and `seed`.

    The column `flipped` has the indices of the flipped steps, and `label_source` ends with "flipped". Null stays null.
    """
    draw = random.Random(f"{seed}/{row['id']}").random
    flipped = [t for t, label in enumerate(row["labels"]) if draw() < share and label is not None]
    labels = [not label if t in flipped else label for t, label in enumerate(row["labels"])]
    return {**row, "labels": labels, "flipped": flipped, "label_source": f"{row['label_source']}, flipped"}


def flip_outcome(row: Row, share: float, seed: int) -> Row:
    """The row with its verdict flipped with probability `share`, drawn by the row's id and `seed`.

    The label and the reward follow the verdict, and the column `flipped` says whether it was. Ungradable rows stay so.
    """
    flipped = random.Random(f"{seed}/{row['id']}").random() < share and row["label"] is not None
    right = row["label"] != flipped
    outcome = {"verdict": "right" if right else "wrong", "label": right, "reward": float(right)}
    return {**row, **(outcome if flipped else {}), "flipped": flipped}
