"""Step labels: exact if the task can check a step, by rollouts of a model, or from outcomes alone."""

from __future__ import annotations

from qstep.annotate.by_rollouts import RolloutMethod, RolloutSettings, label_by_rollouts
from qstep.annotate.chosen import Chosen, blocks_of_problems, choose_rows, share_budget
from qstep.annotate.decision import Decision
from qstep.annotate.exact import label_exactly
from qstep.annotate.labels import flip_labels
from qstep.annotate.outcome import OutcomePool, label_by_outcome
from qstep.annotate.rollouts import Budgets

__all__ = [
    "Budgets",
    "Chosen",
    "Decision",
    "OutcomePool",
    "RolloutMethod",
    "RolloutSettings",
    "blocks_of_problems",
    "choose_rows",
    "flip_labels",
    "label_by_outcome",
    "label_by_rollouts",
    "label_exactly",
    "share_budget",
]
