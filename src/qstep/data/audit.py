"""Doubtful rows of a file: labels that rise, repeated responses, contradicting labels, and two gold answers.

Nearly all of it follows from the file's index. Rows are read again only for soft labels that may rise, for repeats
whose labels differ, and for gold answers that are written differently.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qstep.data.index import Index
from qstep.data.parts import part_of
from qstep.types import Row


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
    """The numbers of rows whose response also has another verdict or reward, or both true and false for a step.

    Labels of a part of a response (`qstep.data.parts`) are compared only with those of the same part.
    """
    table = index.table
    verdicts = np.unique(np.stack([table["right"], np.nan_to_num(table["outcome"])]), axis=1, return_inverse=True)[1]
    graded = _differing(table, verdicts, table["right"] >= 0)
    if index.format != "stepwise":
        return graded
    parts = [separator if part_of(separator or "") else None for separator in index.separators]
    groups: dict[tuple[int, str | None, int], list[int]] = {}
    for number in _differing(table, table["labelling"], (table["labelling"] != 0) & (table["soft"] == 0)).tolist():
        row = table[number]
        groups.setdefault((int(row["response"]), parts[row["separator"]], int(row["steps"])), []).append(number)
    contradict = [rows for rows in groups.values() if _contradict([index.row(number)["labels"] for number in rows])]
    return np.union1d(graded, np.array([*chain.from_iterable(contradict)], np.int64))


def _differing(table: NDArray[np.void], said: NDArray[Any], known: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The numbers of the rows whose response has two different known values."""
    numbers = np.flatnonzero(known)
    numbers = numbers[np.lexsort((said[numbers], table["response"][numbers]))]
    responses, said = table["response"][numbers], said[numbers]
    differ = np.unique(responses[1:][(responses[1:] == responses[:-1]) & (said[1:] != said[:-1])])
    return np.sort(numbers[np.isin(responses, differ)])


def two_golds(index: Index, same: Callable[[Row, Row], bool]) -> list[tuple[int, int]]:
    """Pairs of rows of one problem with different gold answers: the first row of the problem, and a later one.

    A problem is a prompt and its `problem_id`. `same` says whether two gold answers that are written differently are
    the same answer.
    """
    known = np.flatnonzero(index.table["gold"])
    problems, golds = index.table["problem"][known], index.table["gold"][known]
    answers = problems * np.uint64(0x9E3779B97F4A7C15) ^ golds  # one number is quicker to compare than two
    firsts = np.sort(known[np.unique(answers, return_index=True)[1]])  # the first row of each problem with each answer
    if len(firsts) == len(np.unique(problems)):
        return []
    first_of: dict[int, int] = {}
    found = []
    for number in firsts.tolist():
        first = first_of.setdefault(int(index.table["problem"][number]), number)
        if first != number and not same(index.row(first), index.row(number)):
            found.append((first, number))
    return found


def _contradict(labels: list[list[bool | None]]) -> bool:
    return any({True, False} <= {*of_step} for of_step in zip(*labels, strict=True))
