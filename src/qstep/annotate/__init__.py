"""Step labels: exact if the task can check a step, by rollouts of a model, or from outcomes alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qstep.annotate.decision import Decision, Level
from qstep.lazy import lazy

if TYPE_CHECKING:
    from qstep.annotate.by_rollouts import RolloutSettings, check_lengths, label_by_rollouts
    from qstep.annotate.chosen import Chosen, blocks_of_problems, choose_rows, share_budget
    from qstep.annotate.exact import label_exactly
    from qstep.annotate.labels import flip_labels, flip_outcome
    from qstep.annotate.outcome import OutcomePool, label_by_outcome
    from qstep.annotate.rollouts import Budgets

__all__ = [
    "Budgets",
    "Chosen",
    "Decision",
    "Level",
    "OutcomePool",
    "RolloutSettings",
    "blocks_of_problems",
    "check_lengths",
    "choose_rows",
    "flip_labels",
    "flip_outcome",
    "label_by_outcome",
    "label_by_rollouts",
    "label_exactly",
    "share_budget",
]

_PLACES = {
    "by_rollouts": ("RolloutSettings", "check_lengths", "label_by_rollouts"),
    "chosen": ("Chosen", "blocks_of_problems", "choose_rows", "share_budget"),
    "exact": ("label_exactly",),
    "labels": (
        "flip_labels",
        "flip_outcome",
    ),
    "outcome": ("OutcomePool", "label_by_outcome"),
    "rollouts": ("Budgets",),
}

__getattr__, __dir__ = lazy(__name__, {name: place for place, names in _PLACES.items() for name in names})
