"""Self-consistency: (weighted) majority votes over the answers of n samples, and their expected accuracy.

See "Self-Consistency Improves Chain of Thought Reasoning in Language Models" (arXiv 2203.11171). Votes are over classes
of *equivalent* answers, which the caller has determined.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from functools import lru_cache
from itertools import combinations
from math import comb
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

Answer = TypeVar("Answer", bound=Hashable)

NO_ANSWER = -1
"""The class of a response without an answer."""

TIE = 1 - 1e-12
"""A total of at least this share of the largest one ties with it. Equal sums of weights differ by rounding."""


def vote(answers: Sequence[Answer | None], weights: ArrayLike | None = None) -> Answer | None:
    """The answer with the largest total weight (1 each by default). If several tie, the first to appear.

    None means "no answer", and wins only if there is no other. Weights must be finite and not negative. A weight of 0
    counts only if all are 0. Raises ValueError otherwise.
    """
    totals: dict[Answer, float] = {}
    for answer, weight in zip(answers, _checked_weights(weights, len(answers)), strict=True):
        if answer is not None:
            totals[answer] = totals.get(answer, 0.0) + weight
    largest = max(totals.values(), default=0.0)
    return next((answer for answer, total in totals.items() if total >= largest * TIE), None)


def answer_classes(answers: Sequence[Hashable | None]) -> NDArray[np.int64]:
    """Numbers the distinct answers 0, 1, ... in order of appearance, [N]. Missing ones are `NO_ANSWER`."""
    numbers: dict[Hashable, int] = {}
    return np.array(
        [NO_ANSWER if answer is None else numbers.setdefault(answer, len(numbers)) for answer in answers],
        dtype=np.int64,
    )


def vote_accuracy(
    classes: ArrayLike,
    correct: ArrayLike,
    n: int,
    weights: ArrayLike | None = None,
    *,
    draws: int = 2048,
    seed: int = 0,
) -> float:
    """The expected correctness of the (weighted) majority answer of n of the N samples.

    It averages over all subsets of size n if there are at most `draws` of them (always for n = 1 and n = N), else over
    `draws` random ones. The subsets depend only on (N, n, draws, seed), so methods and groups are compared on the same
    ones. The Monte-Carlo standard error of one group is at most 0.5 / sqrt(draws).

    `classes` [N] are integers, or `NO_ANSWER`; see `answer_classes`. `correct` [N] has a value for each response. The
    correctness of a class is the mean of its members. So is that of the responses without an answer, which win only if
    the subset has no other. Tied winners are averaged. Raises ValueError for other shapes, invalid weights (see
    `vote`), and unless 1 <= n <= N and draws >= 1.
    """
    classes, correct = np.asarray(classes), np.asarray(correct, dtype=np.float64)
    if classes.ndim != 1 or classes.shape != correct.shape:
        raise ValueError(f"classes {classes.shape} and correct {correct.shape} must be two lists of one length")
    n_samples = len(classes)
    if not 1 <= n <= n_samples:
        raise ValueError(f"a vote of {n} needs 1 <= n <= N, and there are N = {n_samples} samples")
    if draws < 1:
        raise ValueError(f"draws is {draws}; it must be at least 1")
    weight = _checked_weights(weights, n_samples)

    answered = classes != NO_ANSWER
    no_answer_correct = correct[~answered].mean() if not answered.all() else 0.0
    if not answered.any():
        return float(no_answer_correct)
    names, member = np.unique(classes[answered], return_inverse=True)
    class_correct = np.bincount(member, weights=correct[answered]) / np.bincount(member)
    ballots = np.zeros((len(names), n_samples))
    ballots[member, np.flatnonzero(answered)] = weight[answered]

    totals = ballots @ _subsets(n_samples, n, draws, seed)  # [classes, draws]
    largest = totals.max(axis=0)
    wins = (totals >= largest * TIE).astype(np.float64)
    expected = (class_correct @ wins) / wins.sum(axis=0)
    return float(np.where(largest > 0, expected, no_answer_correct).mean())


def _checked_weights(weights: ArrayLike | None, n_samples: int) -> NDArray[np.float64]:
    if weights is None:
        return np.ones(n_samples)
    checked = np.asarray(weights, dtype=np.float64)
    if checked.shape != (n_samples,):
        raise ValueError(f"{n_samples} answers need {n_samples} weights, got shape {checked.shape}")
    bad = ~np.isfinite(checked) | (checked < 0)
    if bad.any():
        index = int(np.flatnonzero(bad)[0])
        raise ValueError(f"weight {index} is {checked[index]}: weights must be finite and not negative")
    # The smallest positive number replaces 0, to distinguish an answer without weight from one that does not occur.
    return np.maximum(checked, np.finfo(np.float64).tiny)


@lru_cache(maxsize=16)
def _subsets(n_samples: int, n: int, draws: int, seed: int) -> NDArray[np.float64]:
    """The members (1, else 0) of subsets of size n, [N, subsets]: all subsets, or `draws` at random."""
    if n == 1 or comb(n_samples, n) <= draws:
        members = np.array(list(combinations(range(n_samples), n)))
    else:
        keys = np.random.default_rng([seed, n_samples, n]).random((draws, n_samples))
        members = np.argpartition(keys, n - 1, axis=1)[:, :n]
    mask = np.zeros((n_samples, len(members)), dtype=np.float64)
    np.put_along_axis(mask, members.T, 1.0, axis=0)
    mask.flags.writeable = False  # all callers share it
    return mask
