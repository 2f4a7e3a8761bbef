"""Step labels: exact where the task can check a step, by Monte-Carlo rollouts, or from outcomes alone."""

from __future__ import annotations

from qstep.annotate.exact import label_exactly
from qstep.annotate.monte_carlo import RolloutSettings, label_by_rollouts
from qstep.annotate.outcome import OutcomePool, label_by_outcome

__all__ = ["OutcomePool", "RolloutSettings", "label_by_outcome", "label_by_rollouts", "label_exactly"]
