"""Which response each way to choose takes, of all responses to a problem."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from scipy.special import expit

from qstep.data import read_responses
from qstep.evals.choices import Choices
from qstep.evals.verifiers import ScoredGroup
from qstep.evals.ways import weighted
from qstep.search import best_of_n_index, vote
from qstep.types import Row

CHOSEN_BY = "chosen_by"
"""The column of a chosen response: the ways that chose it."""


def chosen_rows(
    choices: Choices, path: Path, task: str = "math", columns: Mapping[str, str] | None = None
) -> Iterator[Row]:
    """The rows of `path` that some way chooses, with the names of these ways in `chosen_by`.

    A vote chooses the first response with the winning answer. If no response has an answer, it chooses none.
    """
    ways: dict[str, list[str]] = {}
    for group, ids in zip(choices.groups, choices.ids, strict=True):
        for way, index in _choices_of(group):
            ways.setdefault(ids[index], []).append(way)
    for row in read_responses(path, task=task, columns=columns):
        if row["id"] in ways:
            yield {**row, CHOSEN_BY: ways[row["id"]]}


def _choices_of(group: ScoredGroup) -> Iterator[tuple[str, int]]:
    """Each way to choose among a problem's responses, and the index of its choice."""
    answers = list(group.answers)
    for name, scores in group.scores.items():
        yield name, best_of_n_index(scores)
    weights = {"majority": None} | {weighted(name): expit(scores) for name, scores in group.scores.items()}
    for way, weight in weights.items():
        if (winner := vote(answers, weight)) is not None:
            yield way, answers.index(winner)
