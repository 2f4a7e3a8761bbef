"""The labels that step scorers learn from: reading them from a row, and checking those of a file."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from qstep.data import NO_ERROR, Index, contradicting_rows, first_wrong, is_right, is_truncated, rising_rows
from qstep.data.parts import ends_with_step
from qstep.objectives.config import GroupConfig
from qstep.objectives.source import RowsFile
from qstep.objectives.verdicts import refuse_unclear_rewards
from qstep.types import ABSENT, Row

if TYPE_CHECKING:
    from qstep.objectives.steps import StepwiseConfig

_log = logging.getLogger(__name__)


def hard_labels(row: Row, threshold: float = 0.0, stop_at_first_error: bool = False) -> list[float]:
    """Labels for a ranking loss: 1 or 0 by the threshold, 0 after the first wrong step, and `ABSENT` for null."""
    labels, first = soft_labels(row, threshold, stop_at_first_error), first_wrong(row["labels"], threshold)
    return [label if label == ABSENT else float(first == NO_ERROR or step < first) for step, label in enumerate(labels)]


def soft_labels(row: Row, threshold: float = 0.0, stop_at_first_error: bool = False) -> list[float]:
    """The row's own labels, with `ABSENT` for null.

    `stop_at_first_error` drops the labels after the first wrong step, which the threshold decides.
    """
    labels = [float(ABSENT) if label is None else float(label) for label in row["labels"]]
    first = first_wrong(row["labels"], threshold) if stop_at_first_error else NO_ERROR
    return labels if first == NO_ERROR else labels[: first + 1]


def without_end(row: Row) -> Row:
    """The row; if it is truncated, without the label of its last step, unless that step was finished."""
    unfinished = is_truncated(row) and ends_with_step(row, row.get("step_separator", ""))
    return {**row, "labels": [*row["labels"][:-1], None]} if unfinished and row["labels"] else row


def label_range(index: Index, *, mask: bool) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The lowest and the highest label of each row, NaN without labels. With `mask`, as `without_end` leaves them."""
    table = index.table
    masked = table["truncated"] & mask
    lowest, highest = (np.where(masked, table[f"{name}_before"], table[name]) for name in ("lowest", "highest"))
    return lowest, highest


def verdict_label(row: Row) -> list[float]:
    """The verdict on the response as the label of its last step. Without a verdict, that step keeps its own label."""
    labels = soft_labels(row)
    verdict = is_right(row)
    return [float(ABSENT)] * (len(labels) - 1) + [labels[-1] if verdict is None else float(verdict)]


def check_verdicts(source: RowsFile, config: GroupConfig, forbidden: Sequence[str]) -> None:
    """Refuses a training file if its responses are all right, or all wrong.

    Raises:
        RowError: a row is bad, or it is not clear which responses are right.
        ValueError: all verdicts are the same.
    """
    index = source.index("stepwise", forbidden).with_verdicts(config.right_at)
    refuse_unclear_rewards(source, index)
    table = index.table
    verdict = np.where(table["right"] >= 0, table["right"], table["last"])
    known = verdict[~np.isnan(verdict) & (table["steps"] > 0)]
    if len(known) and known.min() == known.max():
        raise ValueError(_one_sided(source, "verdicts on responses", f"{known.min():g}"))
    warn_of_contradictions(source, index)


def check_labels(source: RowsFile, config: StepwiseConfig, forbidden: Sequence[str], *, soft: bool) -> None:
    """Refuses a training file if its steps are all right, or all wrong.

    Args:
        soft: the loss takes soft labels without a threshold, so only equal labels count as the same.

    Raises:
        RowError: a row is bad.
        ValueError: all labels are the same, or labels rise after a wrong step and `config.rising` is `refuse`.
    """
    index = source.index("stepwise", forbidden).with_verdicts(config.right_at)
    table, threshold = index.table, config.threshold
    lowest, highest = label_range(index, mask=config.truncated == "mask")
    known = ~np.isnan(lowest) & (table["steps"] > 0)
    if not known.any():
        return  # reading the rows reports why each is left out
    low, high = float(lowest[known].min()), float(highest[known].max())
    as_they_are = soft and not config.stop_at_first_error
    if low == high if as_they_are else (low > threshold or high <= threshold):
        side = "wrong" if high <= threshold else "right"
        says = f"{low:g}" if low == high else f"{side} by --threshold {threshold}"
        raise ValueError(_one_sided(source, "labels of steps", says))
    rising: NDArray[np.int64] = rising_rows(index, threshold) if config.rising == "refuse" else np.empty(0, np.int64)
    if len(rising):
        first = source.line(index.line(rising[0]))
        raise ValueError(
            f"{source}: {len(rising)} rows have a right step after a wrong one, first on {first}, and --rising is "
            "refuse. Correct or drop these rows, give --rising keep, or read each row only up to its first wrong "
            "step (--stop_at_first_error true)"
        )
    warn_of_contradictions(source, index)


def _one_sided(source: RowsFile, what: str, says: str) -> str:
    return (
        f"{source}: all {what} are the same ({says}; 1 is right, 0 wrong), so a scorer can learn nothing from them. "
        "Look at the file with `qstep audit`, and add rows with other labels"
    )


def warn_of_contradictions(source: RowsFile, index: Index) -> None:
    """Logs a warning if rows give one response different labels, verdicts or rewards."""
    contradictions = contradicting_rows(index)
    if len(contradictions):
        _log.warning(
            "%s: %d rows contradict another row of the same response, first on %s. `qstep audit` lists them",
            *(source, len(contradictions), source.line(index.line(contradictions[0]))),
        )
