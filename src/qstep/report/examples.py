"""The problems a report shows: some where the verifier's pick beats the majority, and some others."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from qstep.data import read_groups
from qstep.search import best_of_n_index, vote
from qstep.tasks import BUILT_IN, Tasks, answer_classes_of
from qstep.types import Row


def choose_examples(
    scored: Iterable[Row], verifier: str = "verifier", *, problems: int = 6, responses: int = 8, tasks: Tasks = BUILT_IN
) -> list[Row]:
    """Some problems of a scored file, with the first `responses` of each and those that it and the majority chose.

    Half of them are problems where the verifier's pick is right and the majority's is wrong, if there are as many.
    """
    telling: list[Row] = []
    plain: list[Row] = []
    for rows in read_groups(scored):
        best = best_of_n_index([float("-inf") if row["score"] is None else row["score"] for row in rows])
        classes = answer_classes_of(rows, tasks)
        winner = vote(classes)
        majority = classes.index(winner) if winner in classes else 0
        won = rows[best]["verdict"] == "right" and rows[majority]["verdict"] == "wrong"
        (telling if won else plain).append(_example(rows, [(verifier, best), ("majority", majority)], responses))
        if len(telling) >= problems:
            break
    half = max(problems // 2, problems - len(plain))
    return [*telling[:half], *plain[: problems - len(telling[:half])]]


def _example(rows: list[Row], chosen: list[tuple[str, int]], responses: int) -> Row:
    return {
        "problem_id": rows[0]["problem_id"],
        "prompt": rows[0]["prompt"],
        "gold": rows[0].get("gold"),
        "responses": [
            {
                **{name: rows[i].get(name) for name in ("completion", "verdict", "answer", "q_values", "score")},
                "steps": rows[i]["completions"],
                "labels": _checked_labels(rows[i]),
                "chosen_by": [name for name, index in chosen if index == i],
            }
            for i in sorted({*(index for _, index in chosen), *range(min(responses, len(rows)))})
        ],
    }


def _checked_labels(row: Row) -> list[Any]:
    """What is known of each step for sure: a soft label is an estimate, and not shown as a check."""
    labels = row.get("labels") or [None] * len(row["completions"])
    return [label if isinstance(label, bool) else None for label in labels]
