"""Step labels: exact if the task can check a step, by rollouts of a model, or from outcomes alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qstep.annotate.decision import Decision, Level, Threshold
from qstep.lazy import lazy

if TYPE_CHECKING:
    from qstep.annotate.by_rollouts import RolloutMethod, RolloutSettings, label_by_rollouts
    from qstep.annotate.exact import label_exactly
    from qstep.annotate.labels import flip_labels
    from qstep.annotate.outcome import OutcomePool, label_by_outcome
    from qstep.annotate.rollouts import Budgets

__all__ = [
    "Budgets",
    "Decision",
    "Level",
    "OutcomePool",
    "RolloutMethod",
    "RolloutSettings",
    "Threshold",
    "flip_labels",
    "label_by_outcome",
    "label_by_rollouts",
    "label_exactly",
]

_PLACES = {
    "by_rollouts": ("RolloutMethod", "RolloutSettings", "label_by_rollouts"),
    "exact": ("label_exactly",),
    "labels": ("flip_labels",),
    "outcome": ("OutcomePool", "label_by_outcome"),
    "rollouts": ("Budgets",),
}

__getattr__, __dir__ = lazy(__name__, {name: place for place, names in _PLACES.items() for name in names})
