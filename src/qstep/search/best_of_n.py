"""Best-of-n: a score for a response from its step Qs, the best of n responses, and its expected accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qstep.types import Aggregation


def aggregate(step_scores: Sequence[float], how: Aggregation) -> float:
    """The score of a response from its step Q-values [S], on the scale of one Q.

    So sigmoid(score) can weigh its vote, whatever the aggregation. `product` is the product of the steps'
    sigmoids, given as the Q whose sigmoid it is; it ranks responses as the product does and stays finite
    where the product rounds to 0 or 1. A response without a step scores -inf: it loses to every other and
    its vote weighs nothing. Raises ValueError on a Q that is not finite.
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


def _and(a: float, b: float) -> float:
    """logit(sigmoid(a) * sigmoid(b)), from the odds against: (1 + e^-a)(1 + e^-b) - 1."""
    return -np.logaddexp(np.logaddexp(-a, -b), -a - b)


def best_of_n_index(scores: ArrayLike) -> int:
    """The index of the best of `scores` [N], the first of the tied. Raises ValueError on NaN or no score."""
    checked = _checked_scores(scores)
    if checked.ndim != 1 or checked.size == 0:
        raise ValueError(f"scores must be one non-empty list, got shape {checked.shape}")
    return int(checked.argmax())


def best_of_n_accuracy(scores: ArrayLike, correct: ArrayLike, n: int) -> float:
    """The expected correctness of the best-scored of n of the N samples, exact over all subsets of size n.

    `sum_i correct_(i) C(N-i, n-1) / C(N, n)`, i counted from the best score; tied samples share, which is the
    average over their orders. Best-of-1 is the mean of `correct` [N]. Raises as `pick_probabilities` does.
    """
    picked, correctness = pick_probabilities(scores, n), np.asarray(correct, dtype=np.float64)
    if picked.ndim != 1 or picked.shape != correctness.shape:
        raise ValueError(f"scores {picked.shape} and correct {correctness.shape} must be two lists of one length")
    return float(picked @ correctness)


def pick_probabilities(scores: ArrayLike, n: int) -> NDArray[np.float64]:
    """The probability that each sample is the best-scored one of a random n of the N: [..., N] from [..., N].

    `C(N-i, n-1) / C(N, n)` for the i-th best, averaged over tied samples. The probabilities of a group sum
    to 1. Raises ValueError on NaN (naming its index), and unless 1 <= n <= N. Scores may be infinite.
    """
    checked = _checked_scores(scores)
    n_samples = checked.shape[-1] if checked.ndim else 0
    if not 1 <= n <= n_samples:
        raise ValueError(f"best-of-{n} needs 1 <= n <= N, and there are N = {n_samples} samples")
    # w_1 = n/N and w_{i+1} = w_i (N-i-n+1)/(N-i): ratios below 1, where the binomials would overflow.
    i = np.arange(1, n_samples)
    by_rank = (n / n_samples) * np.cumprod(np.r_[1.0, (n_samples - i - n + 1).clip(min=0) / (n_samples - i)])

    order = np.argsort(-checked, axis=-1, kind="stable")
    ordered = np.take_along_axis(checked, order, axis=-1)
    begins_tie = np.ones(checked.shape, dtype=bool)
    begins_tie[..., 1:] = ordered[..., 1:] != ordered[..., :-1]
    tie = begins_tie.ravel().cumsum() - 1
    total = np.bincount(tie, weights=np.broadcast_to(by_rank, checked.shape).ravel())
    shared = (total / np.bincount(tie))[tie].reshape(checked.shape)

    picked = np.empty(checked.shape)
    np.put_along_axis(picked, order, shared, axis=-1)
    return picked


def _checked_scores(scores: ArrayLike) -> NDArray[np.float64]:
    checked = np.asarray(scores, dtype=np.float64)
    if np.isnan(checked).any():
        index = ", ".join(str(i) for i in np.argwhere(np.isnan(checked))[0])
        raise ValueError(f"the score at index {index} is NaN: a response that cannot be scored has no rank")
    return checked
