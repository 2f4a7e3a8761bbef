"""Q at inference: best-of-n, votes and pass@k with their exact or seeded expectations, and guided searches."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qstep.lazy import lazy
from qstep.search.pass_at_k import pass_at_k  # its module has the same name, so it cannot be lazy

if TYPE_CHECKING:
    from qstep.search.best_of_n import best_of_n_accuracy, best_of_n_index, pick_probabilities
    from qstep.search.methods import METHODS
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

_PLACES = {
    "best_of_n": ("best_of_n_accuracy", "best_of_n_index", "pick_probabilities"),
    "methods": ("METHODS",),
    "together": ("Found", "search_together"),
    "tree": ("Partial", "Rated", "SearchSettings", "pick"),
    "voting": ("NO_ANSWER", "answer_classes", "vote", "vote_accuracy"),
}

__getattr__, __dir__ = lazy(__name__, {name: place for place, names in _PLACES.items() for name in names})
