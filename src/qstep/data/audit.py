"""Statistics of a file of rows before training: labels, lengths, repeated responses, and what two files share.

Nearly all of it follows from the file's index. Rows are read again only for soft labels that may rise and for repeats
whose labels differ. A soft label above 0 counts as right: with it some rollout succeeded.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qstep.data.index import Index
from qstep.data.records import prompt_hash

_NAMED = 5
"""The number of lines that a finding names."""


def audit_rows(index: Index) -> dict[str, Any]:
    """The findings of one file, as JSON; lines are counted from 1, and at most 5 are named.

    `labels` counts steps. `responses` counts responses by their `label` or `reward`. A duplicate is a response that an
    earlier row has too: the same prompt and steps (completion). Of duplicates that contradict one another one says true
    where another says false; soft labels, which are estimates, and null contradict nothing.
    """
    table = index.table
    stepwise = index.format == "stepwise"
    verdicts = {name: int((table["right"] == code).sum()) for name, code in _VERDICTS.items()}
    found: dict[str, Any] = {
        "rows": len(table),
        "format": index.format,
        "problems": len(np.unique(table["prompt"])),
        "responses_per_problem": quantiles(np.unique(table["prompt"], return_counts=True)[1]),
        "characters": {
            part: quantiles(table[f"{part}_bytes"] - table[f"{part}_extra"]) for part in ("prompt", "response")
        },
        "responses": {**verdicts, "right_share": _share(verdicts["right"], verdicts["right"] + verdicts["wrong"])},
        "duplicates": named_rows(repeated_rows(index)),
        "contradictions": named_rows(contradicting_rows(index)),
    }
    if stepwise:
        steps = np.maximum(table["steps"], 0)
        right, labelled = int(table["above"].sum()), int(table["labelled"].sum())
        found |= {
            "steps_per_response": quantiles(steps),
            "labels": {
                "right": right,
                "wrong": labelled - right,
                "null": int(steps.sum()) - labelled,
                "soft": int(table["soft"].sum()),
                "right_share": _share(right, labelled),
            },
            "without_steps": int((steps == 0).sum()),
            "without_labels": int(((steps > 0) & (table["labelled"] == 0)).sum()),
            "rising": named_rows(rising_rows(index)),
        }
    return found


_VERDICTS = {"right": 1, "wrong": 0, "unknown": -1}


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
    """The numbers of rows whose response has both true and false labels, for a step or for the whole response."""
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


def shared_rows_of(index: Index, other: Index) -> dict[str, Any]:
    """What a file shares with another: problems (by their prompts, not their ids), the rows of these, and responses.

    Responses are compared only if both files have the same format.
    """
    same = index.format == other.format
    responses = np.isin(index.table["response"], np.unique(other.table["response"])) if same else np.zeros(0, bool)
    return _shared(index, other.table["prompt"], int(responses.sum()))


def shared_problems_of(index: Index, prompts: Iterable[str]) -> dict[str, Any]:
    """What a file shares with a file of problems only."""
    return _shared(index, np.fromiter(map(prompt_hash, prompts), "<u8"), responses=0)


def _shared(index: Index, prompts: NDArray[np.uint64], responses: int) -> dict[str, Any]:
    ours = index.table["prompt"]
    rows = np.flatnonzero(np.isin(ours, prompts))
    return {"problems": len(np.unique(ours[rows])), "responses": responses, **named_rows(rows)}


def quantiles(values: NDArray[Any]) -> dict[str, float]:
    """Mean and quantiles; each quantile is one of the values."""
    at = {"least": 0.0, "median": 0.5, "p90": 0.9, "p99": 0.99, "most": 1.0}
    found = np.quantile(values, list(at.values()), method="inverted_cdf")
    return {"mean": float(values.mean()), **dict(zip(at, map(int, found), strict=True))}


def named_rows(numbers: NDArray[np.int64]) -> dict[str, Any]:
    """The number of rows of a finding, and the first lines."""
    return {"rows": len(numbers), "lines": (numbers[:_NAMED] + 1).tolist()}


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
