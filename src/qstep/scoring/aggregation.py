"""Aggregates the Qs of a response's steps to its score. The scorer's contract names the rule."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import reduce

import numpy as np

from qstep.scoring.scorer import Scored, Scorer
from qstep.types import Aggregation, Row


def aggregate(step_scores: Sequence[float], how: Aggregation) -> float:
    """The score of a response from the Qs of its steps, [S].

    The score is on the scale of a Q, so sigmoid(score) can always weight a vote. `product` is the product of the steps'
    sigmoids, converted back to a Q. It ranks responses as the product does, and stays finite where the product rounds
    to 0 or 1. The score of a response without steps is -inf. It loses to every other one, and its vote has weight 0.

    Raises ValueError for a Q that is not finite.
    """
    scores = np.asarray(step_scores, dtype=np.float64)
    if scores.ndim != 1:
        raise ValueError(f"step scores must be one list, got shape {scores.shape}")
    if not np.isfinite(scores).all():
        step = int(np.flatnonzero(~np.isfinite(scores))[0])
        raise ValueError(f"the score of step {step} is {scores[step]}: step scores must be finite")
    if scores.size == 0:
        return -np.inf
    match how:
        case "min":
            return float(scores.min())
        case "last":
            return float(scores[-1])
        case "mean":
            return float(scores.mean())
        case "product":
            return float(reduce(_and, scores))
        case _:
            raise ValueError(f"unknown aggregation {how!r}: use min, last, mean or product")


def with_scores(scored: Scored, scorer: Scorer) -> Row:
    """A scored row with its `q_values`, its `score` and its `step_rewards`."""
    row, q_values = scored
    try:
        total = aggregate(q_values, scorer.aggregation)
    except ValueError as error:
        raise ValueError(f"row {row.get('id')!r}: {error}") from None
    return row | {
        "q_values": q_values,
        "score": total if math.isfinite(total) else None,
        "step_rewards": [1 / (1 + math.exp(-q)) if q > -700 else 0.0 for q in q_values],
    }


def _and(a: float, b: float) -> float:
    """logit(sigmoid(a) * sigmoid(b)). Its odds against are (1 + e^-a)(1 + e^-b) - 1."""
    return -np.logaddexp(np.logaddexp(-a, -b), -a - b)
