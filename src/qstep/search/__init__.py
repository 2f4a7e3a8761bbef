"""Q at inference: pick the best of n, vote, and count passes, each with its exact or seeded expectation."""

from __future__ import annotations

from qstep.search.best_of_n import (
    aggregate,
    best_of_n_accuracy,
    best_of_n_index,
    pick_probabilities,
)
from qstep.search.pass_at_k import pass_at_k
from qstep.search.voting import NO_ANSWER, answer_classes, vote, vote_accuracy

__all__ = [
    "NO_ANSWER",
    "aggregate",
    "answer_classes",
    "best_of_n_accuracy",
    "best_of_n_index",
    "pass_at_k",
    "pick_probabilities",
    "vote",
    "vote_accuracy",
]
