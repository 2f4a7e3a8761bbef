"""The area under the ROC curve (AUC): how often right items score above wrong ones.

The AUC of steps needs care. Steps after the first wrong one are left out, so the wrong step of a response is its last
one. Within one response, any score that falls from step to step is then perfect without reading a word. The AUCs at
equal positions avoid this: they only compare steps with the same index.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata

from qstep.evals.intervals import bootstrap_estimate, mean_estimate, members, numbered, times_drawn
from qstep.evals.measures import Measured


def auc(scores: ArrayLike, correct: ArrayLike) -> float | None:
    """The chance that a correct item scores above a wrong one, with ties as one half: the area under the ROC curve.

    Items are responses or steps. Returns None if one class is missing. Raises ValueError for different lengths, a NaN
    score, or a `correct` other than 0 and 1. Drop steps without a label first.
    """
    return _area(*_items(scores, correct))


def _items(scores: ArrayLike, correct: ArrayLike) -> tuple[NDArray[np.float64], NDArray[Any]]:
    score, right = np.asarray(scores, dtype=np.float64), np.asarray(correct)
    if score.ndim != 1 or score.shape != right.shape:
        raise ValueError(f"scores {score.shape} and correct {right.shape} must be two lists of one length")
    if np.isnan(score).any():
        raise ValueError(f"score {int(np.isnan(score).argmax())} is NaN")
    if not np.isin(right, (0, 1)).all():
        raise ValueError("correct must be 0 or 1: drop items without a label first")
    return score, right


def _area(score: NDArray[np.float64], right: NDArray[Any]) -> float | None:
    n_right = int(right.sum())
    n_wrong = len(right) - n_right
    if n_right == 0 or n_wrong == 0:
        return None
    rank_sum = rankdata(score)[right == 1].sum()
    return float((rank_sum - n_right * (n_right + 1) / 2) / (n_right * n_wrong))


def within_problem_auc(scores: ArrayLike, correct: ArrayLike, problems: Sequence[Hashable]) -> Measured | None:
    """The mean of `auc` over the problems that have both classes, with its 95 % interval; None if none has.

    `n` counts these problems. This AUC matters for choosing among the responses to one problem. The `auc` of all items
    together also rewards separating easy problems from hard ones, and can look good if this AUC is at chance. Raises
    as `auc_estimate` does.
    """
    score, right = _items(scores, correct)
    areas = [_area(score[places], right[places]) for places in members(_numbered(problems, score))]
    known = [area for area in areas if area is not None]
    return Measured.of(mean_estimate(known)) if known else None


def auc_estimate(
    scores: ArrayLike, correct: ArrayLike, problems: Sequence[Hashable], *, seed: int = 0
) -> Measured | None:
    """The `auc` of all items together, with its 95 % interval over problems; None if a class is missing.

    The interval is a first-order bootstrap, which needs no sorting. In a resample, each item keeps its placement: the
    share of the other class, among all items, that it is correctly ordered with (DeLong et al. 1988). Raises as `auc`
    does, and if the numbers of items and problems differ.
    """
    score, right = _items(scores, correct)
    problem, area = _numbered(problems, score), _area(score, right)
    if area is None:
        return None
    right = right == 1
    placed = np.empty_like(score)
    for kind in (right, ~right):
        below = (rankdata(score)[kind] - rankdata(score[kind])) / (~kind).sum()
        placed[kind] = below if kind is right else 1 - below
    amounts = [weight * kind for kind in (right, ~right) for weight in (placed, np.ones_like(placed))]
    table = np.stack([np.bincount(problem, weights=amount) for amount in amounts], axis=-1)

    def resampled(drawn: NDArray[np.int64]) -> NDArray[np.float64]:
        of_right, n_right, of_wrong, n_wrong = np.moveaxis(times_drawn(drawn) @ table, -1, 0)
        with np.errstate(invalid="ignore"):
            return np.clip(of_right / n_right + of_wrong / n_wrong - area, 0, 1)

    return Measured.of(bootstrap_estimate(resampled, len(table), len(table), seed=seed))


def equal_position_auc(
    scores: ArrayLike, correct: ArrayLike, positions: Sequence[int], problems: Sequence[Hashable], *, seed: int = 0
) -> Measured | None:
    """The `auc` of steps over pairs with the same index in two responses, which may belong to different problems.

    Its 95 % interval over problems is first-order, as in `auc_estimate`. A score that depends only on the index of a
    step has .5. A score that knows which problems are hard can have more. Returns None if no index has both classes.
    Raises as `auc_estimate` does.
    """
    score, right = _items(scores, correct)
    problem = _numbered(problems, score)
    ordered, pairs = _ordered_pairs(score, right == 1, numbered(positions))
    in_order, all_pairs = (float(values[right == 1].sum()) for values in (ordered, pairs))
    if not all_pairs:
        return None
    table = np.stack([np.bincount(problem, weights=values) for values in (ordered, pairs)], axis=-1)

    def resampled(drawn: NDArray[np.int64]) -> NDArray[np.float64]:
        # Each pair is counted from both sides, so the sums over all items are twice those over pairs.
        above, below = np.moveaxis(times_drawn(drawn) @ table - (in_order, all_pairs), -1, 0)
        return np.clip(np.divide(above, below, out=np.full_like(above, np.nan), where=below > 0), 0, 1)

    return Measured.of(bootstrap_estimate(resampled, len(table), len(table), seed=seed))


def equal_position_within_problem_auc(
    scores: ArrayLike, correct: ArrayLike, positions: Sequence[int], problems: Sequence[Hashable]
) -> Measured | None:
    """The same over pairs of two responses to one problem: the mean over the problems that have such a pair.

    A score that depends only on the problem and the index of a step has .5. Returns None if no problem has a pair.
    """
    score, right = _items(scores, correct)
    problem = _numbered(problems, score)
    place = numbered(list(zip(problem.tolist(), positions, strict=True)))
    ordered, pairs = (
        np.bincount(problem[right == 1], weights=values[right == 1])
        for values in _ordered_pairs(score, right == 1, place)
    )
    known = pairs > 0
    return Measured.of(mean_estimate(ordered[known] / pairs[known])) if known.any() else None


def _ordered_pairs(
    score: NDArray[np.float64], right: NDArray[np.bool_], group: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """For each item, the number of correctly ordered pairs with the other class in its group (ties half), and of all
    such pairs."""
    ordered, pairs = np.zeros_like(score), np.zeros_like(score)
    for places in members(group):
        of_right = right[places]
        ranks = rankdata(score[places])
        for kind in (of_right, ~of_right):
            others = int((~kind).sum())
            below = ranks[kind] - rankdata(score[places][kind]) if kind.any() else ranks[kind]
            ordered[places[kind]] = below if kind is of_right else others - below
            pairs[places[kind]] = others
    return ordered, pairs


def _numbered(problems: Sequence[Hashable], items: NDArray[np.float64]) -> NDArray[np.int64]:
    if len(problems) != len(items):
        raise ValueError(f"{len(items)} items and {len(problems)} problems: give a problem for each item")
    return numbered(problems)
