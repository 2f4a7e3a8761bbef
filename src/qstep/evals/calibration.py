"""Whether sigmoid(Q) is the chance that a step is right."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit

from qstep.evals.intervals import bootstrap_estimate, numbered, times_drawn
from qstep.evals.measures import Bin, Calibration, Measured


def calibration(
    q_values: ArrayLike, labels: ArrayLike, problems: Sequence[Hashable], *, bins: int = 10, seed: int = 0
) -> Calibration:
    """The expected calibration error of sigmoid(Q) [N] against labels [N] of 1 and 0, and its reliability curve.

    The steps are divided into `bins` of equal size. Equal probabilities share a bin, so there may be fewer bins. `ece`
    is `sum_b N_b / N |mean p_b - share right_b|` (Naeini et al. 2015; equal sizes as in Nixon et al., arXiv 1904.01685)
    with its 95 % interval over problems. Resamples use the bins of all steps. The ECE is above 0 by chance alone, and
    more so with fewer steps. `reliability` has for each bin the lowest (`low`) and highest (`high`) probability, the
    mean `predicted` one, the share `right`, and the number of `steps`. Raises ValueError for different lengths, no
    steps, fewer than 1 bin, a NaN, or a label other than 0 and 1.
    """
    q, right = np.asarray(q_values, dtype=np.float64), np.asarray(labels)
    if not q.shape == right.shape == (len(problems),) or not q.size:
        raise ValueError(
            f"{q.shape} Qs, {right.shape} labels and {len(problems)} problems: give one of each for every step"
        )
    if np.isnan(q).any() or not np.isin(right, (0, 1)).all():
        raise ValueError("a Q is NaN, or a label is neither 0 nor 1: drop steps without a label first")
    if bins < 1:
        raise ValueError(f"bins is {bins}: give 1 or more")
    p = expit(q)
    last = -(-np.arange(1, bins) * p.size // bins) - 1  # of each bin but the last, in whole numbers: .3 * N is inexact
    edges = np.unique(np.sort(p)[last])
    bin_of = np.searchsorted(edges, p)
    problem = numbered(problems)
    n_bins = int(bin_of.max()) + 1
    table = np.zeros((int(problem.max()) + 1, n_bins, 3))  # for each problem and bin: steps, sum of p, right steps
    for column, amount in enumerate((np.ones_like(p), p, right)):
        np.add.at(table[..., column], (problem, bin_of), amount)

    def error(drawn: NDArray[np.int64]) -> NDArray[np.float64]:
        sums = np.tensordot(times_drawn(drawn), table, axes=1)
        return np.abs(sums[..., 1] - sums[..., 2]).sum(axis=-1) / sums[..., 0].sum(axis=-1)

    reliability = [
        Bin(
            low=float(p[inside].min()),
            high=float(p[inside].max()),
            predicted=float(p[inside].mean()),
            right=float(right[inside].mean()),
            steps=int(inside.sum()),
        )
        for inside in (bin_of == number for number in range(n_bins))
        if inside.any()
    ]
    ece = bootstrap_estimate(error, len(table), len(table), seed=seed)
    return Calibration(ece=Measured.of(ece), reliability=reliability)
