"""Checks of labels and rewards, which say which responses are right."""

from __future__ import annotations

import numpy as np

from qstep.data import Index
from qstep.objectives.source import RowsFile


def refuse_unclear_rewards(source: RowsFile, index: Index) -> None:
    """Raises RowError if rewards do not say which responses are right: some are above 1, or none is 0 or 1."""
    rewards = np.where(index.table["judged"], np.nan, index.table["outcome"])
    if np.isnan(rewards).all() or (np.nanmax(rewards) <= 1 and np.isin(rewards, (0.0, 1.0)).any()):
        return
    number = int(np.nanargmax(rewards))
    raise source.error(
        index.line(number),
        "reward",
        f"is {rewards[number]:g}, and rewards are from {np.nanmin(rewards):g} to {rewards[number]:g}, so it is not "
        "clear which responses are right. Give --right_at, the reward from which a response is right",
    )


def refuse_contradicting_verdicts(source: RowsFile, index: Index) -> None:
    """Raises RowError if a label contradicts its reward: right below `right_at` (1 if None), or wrong from it.

    Checks only files whose rewards are 1, 0 and -1, because others may have another scale.
    """
    table = index.table
    rewards, known = table["outcome"], table["valued"]
    if not np.isin(rewards[known], (-1.0, 0.0, 1.0)).all():
        _refuse_two_scales(source, index)
        return
    rewarded = rewards >= (1 if index.right_at is None else index.right_at)
    bad = np.flatnonzero(known & table["judged"] & ((table["right"] == 1) != rewarded))
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
