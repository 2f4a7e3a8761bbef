"""Step labels: exact where the task can check a step, Monte-Carlo rollouts elsewhere."""

from __future__ import annotations

from qstep.annotate.exact import label_exactly
from qstep.annotate.monte_carlo import RolloutSettings, label_by_rollouts

__all__ = ["RolloutSettings", "label_by_rollouts", "label_exactly"]
