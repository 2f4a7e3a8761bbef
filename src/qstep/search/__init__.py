"""Q at inference: best-of-n, votes and pass@k with their exact or seeded expectations, and guided searches."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qstep.lazy import lazy
from qstep.search.pass_at_k import pass_at_k  # its module has the same name, so it cannot be lazy

if TYPE_CHECKING:
    from qstep.search.best_of_n import best_of_n_accuracy, best_of_n_index, choice_probabilities
    from qstep.search.methods import SEARCHES, SearchKind
    from qstep.search.together import Found, search_together
    from qstep.search.tree import Partial, Rated, SearchSettings, choose
    from qstep.search.voting import NO_ANSWER, answer_classes, vote, vote_accuracy

__all__ = [
    "NO_ANSWER",
    "SEARCHES",
    "Found",
    "Partial",
    "Rated",
    "SearchKind",
    "SearchSettings",
    "answer_classes",
    "best_of_n_accuracy",
    "best_of_n_index",
    "choice_probabilities",
    "choose",
    "pass_at_k",
    "search_together",
    "vote",
    "vote_accuracy",
]

_PLACES = {
    "best_of_n": ("best_of_n_accuracy", "best_of_n_index", "choice_probabilities"),
    "methods": ("SEARCHES", "SearchKind"),
    "together": ("Found", "search_together"),
    "tree": ("Partial", "Rated", "SearchSettings", "choose"),
    "voting": ("NO_ANSWER", "answer_classes", "vote", "vote_accuracy"),
}

__getattr__, __dir__ = lazy(__name__, {name: place for place, names in _PLACES.items() for name in names})
