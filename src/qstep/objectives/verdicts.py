"""Checks of labels and rewards, which say which responses are right."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from qstep.data import Answers, Index, two_golds
from qstep.objectives.source import RowsFile
from qstep.tasks import BUILT_IN, is_users
from qstep.types import Row


def refuse_unclear_rewards(source: RowsFile, index: Index) -> None:
    """Raises RowError if rewards do not say which responses are right (`unclear_rewards`)."""
    if (found := unclear_rewards(index)) is not None:
        number, problem = found
        ask = "Give --right_at, the reward from which a response is right"
        raise source.error(index.line(number), "reward", f"is {problem}, so it is not clear which are right. {ask}")


def unclear_rewards(index: Index) -> tuple[int, str] | None:
    """The row with the greatest reward, and what is unclear: rewards above 1, or fewer than half that are 1, 0 or -1.

    Only rewards of rows without a label count.
    """
    rewards = np.where(index.table["judged"], np.nan, index.table["outcome"])
    known = rewards[~np.isnan(rewards)]
    if not len(known) or (known.max() <= 1 and np.isin(known, (-1.0, 0.0, 1.0)).mean() >= 0.5):
        return None
    return int(np.nanargmax(rewards)), f"{known.max():g}, and rewards are from {known.min():g} to {known.max():g}"


def refuse_contradicting_verdicts(source: RowsFile, index: Index) -> None:
    """Raises RowError if a label contradicts its reward: right below `right_at` (1 if None), or wrong from it.

    Checks rewards of 1, 0 and -1, in files without rewards beyond them, which may have another scale.
    """
    table = index.table
    rewards, known = table["outcome"], table["valued"]
    exact = np.isin(rewards, (-1.0, 0.0, 1.0))
    if not exact[known].all():
        _refuse_two_scales(source, index)
    if (np.abs(rewards[known]) > 1).any():
        return
    rewarded = rewards >= (1 if index.right_at is None else index.right_at)
    bad = np.flatnonzero(known & exact & table["judged"] & ((table["right"] == 1) != rewarded))
    if len(bad):
        row = index.row(int(bad[0]))
        label = str(row["label"]).lower()
        raise source.error(
            index.line(int(bad[0])),
            "label",
            f"is {label}, but reward is {row['reward']} ({len(bad)} such rows). Correct one of the two, or drop it",
        )


def _refuse_two_scales(source: RowsFile, index: Index) -> None:
    """Raises RowError for a label without a reward, which counts as a reward of 1 or 0."""
    alone = np.flatnonzero(index.table["judged"] & ~index.table["valued"])
    if len(alone):
        raise source.error(
            index.line(int(alone[0])),
            "reward",
            f"is missing ({len(alone)} such rows). Its label would count as a reward of 1 or 0, but other rows have "
            "rewards of another scale. Give every row a reward, or every row a label",
        )


def refuse_two_golds(source: RowsFile, index: Index, task_of: Callable[[Row], Answers] | None = None) -> None:
    """Raises RowError if a problem has two gold answers that are not the same answer.

    Without `task_of`, the tasks of this package compare them. Those of a user's task, which is not loaded, are not
    compared.
    """

    def same(first: Row, row: Row) -> bool:
        if task_of is not None:
            return task_of(row).same_answer(first["gold"], row["gold"])
        task = row.get("task", BUILT_IN.task)
        return is_users(task) or BUILT_IN.named(task).same_answer(first["gold"], row["gold"])

    for first, other in two_golds(index, same)[:1]:
        raise source.error(
            index.line(other),
            "gold",
            f"is {index.row(other)['gold']!r}, but the same problem has {index.row(first)['gold']!r} on "
            f"{source.line(index.line(first))}. Correct one of them",
        )
