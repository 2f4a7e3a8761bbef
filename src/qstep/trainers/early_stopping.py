"""The end of a training whose evaluations no longer improve, and whether any was better than the one before it.

It is read from the log, which checkpoints hold. So a resumed run ends at the same step.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from transformers import TrainerState

from qstep.objectives.config import GroupConfig


def stopped_early(args: GroupConfig | Any, state: TrainerState) -> bool:
    """Whether as many evaluations as `early_stopping_patience` were not better than the best one before them."""
    patience = args.early_stopping_patience
    if patience is None:
        return False
    found = _evaluations(args, state).values()
    return evaluations_since_best(found, greater_is_better=bool(args.greater_is_better)) >= patience


def best_before_training(args: GroupConfig | Any, state: TrainerState) -> float | None:
    """The value of the evaluation before the first update, if no later one was better; else None."""
    found = _evaluations(args, state)
    since = evaluations_since_best(found.values(), greater_is_better=bool(args.greater_is_better))
    return found[0] if 0 in found and since == len(found) - 1 > 0 else None


def _evaluations(args: GroupConfig | Any, state: TrainerState) -> dict[int, float | None]:
    """The measure that decides, by step."""
    name = f"eval_{str(args.metric_for_best_model).removeprefix('eval_')}"
    # A resumed run may evaluate the step once more that it resumes from.
    return {int(line["step"]): line[name] for line in state.log_history if name in line}


def evaluations_since_best(values: Iterable[float | None], *, greater_is_better: bool) -> int:
    """The number of values after the best one. The first of equal values is the best; None is never better."""
    best, since = -math.inf, 0
    for value in values:
        score = -math.inf if value is None else value if greater_is_better else -value
        best, since = (score, 0) if score > best else (best, since + 1)
    return since
