"""Doubtful rows of a file: labels that rise, repeated responses, and labels that contradict one another.

Nearly all of it follows from the file's index. Rows are read again only for soft labels that may rise and for repeats
whose labels differ.
"""

from __future__ import annotations

from itertools import chain

import numpy as np
from numpy.typing import NDArray

from qstep.data.index import Index


def rising_rows(index: Index, threshold: float = 0.0) -> NDArray[np.int64]:
    """The numbers of rows in which a step is right after one that is wrong; a label above `threshold` is right."""
    table = index.table
    rises = table["rises"] & (table["lowest"] <= threshold) & (table["highest"] > threshold)
    for number in np.flatnonzero(rises & (table["soft"] > 0)):
        labels = [label > threshold for label in index.row(int(number))["labels"] if label is not None]
        rises[number] = any(labels[labels.index(False) :])
    return np.flatnonzero(rises)


def repeated_rows(index: Index) -> NDArray[np.int64]:
    """The numbers of rows whose prompt and response are those of an earlier row."""
    order = np.argsort(index.table["response"], kind="stable")
    hashes = index.table["response"][order]
    return np.sort(order[1:][hashes[1:] == hashes[:-1]])


def contradicting_rows(index: Index) -> NDArray[np.int64]:
    """The numbers of rows whose response has both true and false labels, for a step or for the complete response."""
    table = index.table
    if index.format == "stepwise":
        said, may = table["labelling"], (table["labelling"] != 0) & (table["soft"] == 0)
    else:
        said, may = table["right"], table["right"] >= 0
    numbers = np.flatnonzero(may)
    numbers = numbers[np.lexsort((said[numbers], table["response"][numbers]))]
    responses, said = table["response"][numbers], said[numbers]
    differ = np.unique(responses[1:][(responses[1:] == responses[:-1]) & (said[1:] != said[:-1])])
    differing = np.sort(numbers[np.isin(responses, differ)])
    if index.format != "stepwise":
        return differing
    groups: dict[int, list[int]] = {}
    for number in differing.tolist():
        groups.setdefault(int(table["response"][number]), []).append(number)
    contradict = [rows for rows in groups.values() if _contradict([index.row(number)["labels"] for number in rows])]
    return np.array(sorted(chain.from_iterable(contradict)), np.int64)


def _contradict(labels: list[list[bool | None]]) -> bool:
    return any({True, False} <= {*of_step} for of_step in zip(*labels, strict=True))
