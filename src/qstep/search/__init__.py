"""Q at inference: pick the best of n, vote, count passes, each with its exact or seeded expectation; and search."""

from __future__ import annotations

from qstep.search.best_of_n import (
    aggregate,
    best_of_n_accuracy,
    best_of_n_index,
    pick_probabilities,
)
from qstep.search.guided import METHODS
from qstep.search.pass_at_k import pass_at_k
from qstep.search.together import Found, search_together
from qstep.search.tree import Partial, Rated, SearchSettings, pick
from qstep.search.voting import NO_ANSWER, answer_classes, vote, vote_accuracy

__all__ = [
    "METHODS",
    "NO_ANSWER",
    "Found",
    "Partial",
    "Rated",
    "SearchSettings",
    "aggregate",
    "answer_classes",
    "best_of_n_accuracy",
    "best_of_n_index",
    "pass_at_k",
    "pick",
    "pick_probabilities",
    "search_together",
    "vote",
    "vote_accuracy",
]
