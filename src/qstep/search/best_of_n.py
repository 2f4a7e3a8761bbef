"""Best-of-n: the best of n responses, and its expected accuracy."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def best_of_n_index(scores: ArrayLike) -> int:
    """The index of the best of `scores` [N], the first one if several tie. Raises ValueError for NaN, or no scores."""
    checked = _checked_scores(scores)
    if checked.ndim != 1 or checked.size == 0:
        raise ValueError(f"scores has shape {checked.shape}; it must be one non-empty list")
    return int(checked.argmax())


def best_of_n_accuracy(scores: ArrayLike, correct: ArrayLike, n: int) -> float:
    """The expected correctness of the best-scored of n of the N samples, exact over all subsets of size n.

    It is `sum_i correct_(i) C(N-i, n-1) / C(N, n)`, with i counted from the best score. Tied samples are averaged over
    their orders. Best-of-1 is the mean of `correct` [N]. Raises as `choice_probabilities` does.
    """
    chances, correctness = choice_probabilities(scores, n), np.asarray(correct, dtype=np.float64)
    if chances.ndim != 1 or chances.shape != correctness.shape:
        raise ValueError(f"scores {chances.shape} and correct {correctness.shape} must be two lists of one length")
    return float(chances @ correctness)


def choice_probabilities(scores: ArrayLike, n: int) -> NDArray[np.float64]:
    """The probability that each sample is the best-scored one among n random samples of N: [..., N] from [..., N].

    It is `C(N-i, n-1) / C(N, n)` for the i-th best, averaged over tied samples. The probabilities of a group sum to 1.
    Scores may be infinite. Raises ValueError for NaN (naming its index), and unless 1 <= n <= N.
    """
    checked = _checked_scores(scores)
    n_samples = checked.shape[-1] if checked.ndim else 0
    if not 1 <= n <= n_samples:
        raise ValueError(f"best-of-{n} needs 1 <= n <= N, and there are N = {n_samples} samples")
    # w_1 = n/N and w_{i+1} = w_i (N-i-n+1)/(N-i): these ratios are below 1, whereas the binomials would overflow.
    i = np.arange(1, n_samples)
    by_rank = (n / n_samples) * np.cumprod(np.r_[1.0, (n_samples - i - n + 1).clip(min=0) / (n_samples - i)])

    order = np.argsort(-checked, axis=-1, kind="stable")
    ordered = np.take_along_axis(checked, order, axis=-1)
    begins_tie = np.ones(checked.shape, dtype=bool)
    begins_tie[..., 1:] = ordered[..., 1:] != ordered[..., :-1]
    tie = begins_tie.ravel().cumsum() - 1
    total = np.bincount(tie, weights=np.broadcast_to(by_rank, checked.shape).ravel())
    shared = (total / np.bincount(tie))[tie].reshape(checked.shape)

    chances = np.empty(checked.shape)
    np.put_along_axis(chances, order, shared, axis=-1)
    return chances


def _checked_scores(scores: ArrayLike) -> NDArray[np.float64]:
    checked = np.asarray(scores, dtype=np.float64)
    if np.isnan(checked).any():
        index = ", ".join(str(i) for i in np.argwhere(np.isnan(checked))[0])
        raise ValueError(f"the score at index {index} is NaN: a response that cannot be scored has no rank")
    return checked
