"""95 % confidence intervals. The unit is the problem, because responses to one problem are not independent."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qstep.types import Estimate

Ratio = tuple[ArrayLike, ArrayLike]
"""Numerators and denominators of n problems, each of shape [n]."""


class Interval(Protocol):
    """A mean with its limits, or None if they are unknown."""

    @property
    def mean(self) -> float | None: ...
    @property
    def low(self) -> float | None: ...
    @property
    def high(self) -> float | None: ...


_Z = 1.959963984540054
"""The 97.5th percentile of the normal distribution: a 95 % interval is this many standard errors on each side."""

_INFORMATION = 0.15
"""The weight of the prior that a share's design effect is 1.

It is in units of `n p (1 - p)`: with ten problems at p = .5 it weighs 6 in 100. It was chosen by simulation, as the
smallest value with a coverage of at least 93 % for 10 to 200 problems with shares of 1 to 50 %.
"""
_RESAMPLES = 2000
_DRAWN_AT_ONCE = 1 << 20


def mean_estimate(values: ArrayLike) -> Estimate:
    """The mean of one rate in [0, 1] per problem, [n], with its 95 % interval: `ratio_estimate` with denominators 1.

    It is Wilson's interval if every value is 0 or 1. Raises ValueError without values, or for one outside [0, 1].
    """
    rates = _checked_rates(values, "values")
    return ratio_estimate(rates, np.ones_like(rates))


def ratio_estimate(numerators: ArrayLike, denominators: ArrayLike) -> Estimate:
    """`sum numerators / sum denominators` over n problems, with its 95 % interval, Wilson's at an effective n.

    It is meant for rates of clustered items, such as equal labels / steps of each problem. The effective n is n divided
    by the design effect. The design effect is the variance of a problem's share divided by `p (1 - p)`, the variance if
    each share were 0 or 1. With little data (p near 0 or 1, or n small) it is shrunk to 1 (see `_INFORMATION`). So the
    interval always has a width, and changes continuously into that of no success in n. Raises ValueError for different
    lengths, no problems, a denominator that is not positive, or a ratio outside [0, 1].
    """
    below = np.asarray(denominators, dtype=np.float64)
    if below.shape != np.shape(numerators) or not (np.isfinite(below) & (below > 0)).all():
        raise ValueError("denominators must be positive and finite, one for each numerator")
    above = below * _checked_rates(np.asarray(numerators, dtype=np.float64) / below, "ratios")
    n, share = len(above), float(above.sum() / below.sum())
    spread = float((((above - share * below) / below.mean()) ** 2).sum())
    design_effect = (spread + _INFORMATION) / (n * share * (1 - share) + _INFORMATION)
    low, high = _wilson(share, n / design_effect)
    return Estimate(share, min(low, share), max(high, share), n)


def _wilson(share: float, n: float) -> tuple[float, float]:
    """Wilson's 95 % interval of a share of n, which may be fractional."""
    square = _Z**2 / n
    centre, half = share + square / 2, math.sqrt(square * share * (1 - share) + square**2 / 4)
    return max(0.0, (centre - half) / (1 + square)), min(1.0, (centre + half) / (1 + square))


def ratio_difference(a: Ratio, b: Ratio, *, seed: int = 0) -> Estimate:
    """`sum a_above / sum a_below - sum b_above / sum b_below` over the same n problems, with its paired 95 % interval.

    It is a percentile bootstrap over problems, see `percentile_estimate`. Differences lie in [-1, 1]. A problem may
    have a numerator and a denominator of 0 on either side; `n` counts the problems without that. A resample is left out
    if a side has only such problems.
    """
    (a_above, a_below), (b_above, b_below) = (tuple(np.asarray(x, dtype=np.float64) for x in side) for side in (a, b))

    def difference(drawn: NDArray[np.int64]) -> NDArray[np.float64]:
        with np.errstate(invalid="ignore"):
            ours = a_above[drawn].sum(axis=-1) / a_below[drawn].sum(axis=-1)
            return ours - b_above[drawn].sum(axis=-1) / b_below[drawn].sum(axis=-1)

    n = int(((a_below > 0) & (b_below > 0)).sum())
    return bootstrap_estimate(difference, len(a_above), n, lowest=-1.0, seed=seed)


def bootstrap_estimate(
    statistic: Callable[[NDArray[np.int64]], NDArray[np.float64]],
    problems: int,
    n: int,
    *,
    lowest: float = 0.0,
    seed: int = 0,
) -> Estimate:
    """A statistic in [lowest, 1] with its percentile bootstrap interval over problems, see `percentile_estimate`.

    The statistic takes indices of problems [..., problems]. A resample is left out if its statistic is NaN, which means
    undefined. `n` is stored in the estimate.
    """
    mean = float(statistic(np.arange(problems)))
    return percentile_estimate(mean, replicates(statistic, problems, seed=seed), problems, n, lowest=lowest)


def replicates(
    statistic: Callable[[NDArray[np.int64]], NDArray[np.float64]], problems: int, *, seed: int = 0
) -> NDArray[np.float64]:
    """The statistic of each resample over problems, [resamples]."""
    return np.concatenate([statistic(drawn) for drawn in _resampled(problems, seed)])


def percentile_estimate(
    mean: float, values: NDArray[np.float64], problems: int, n: int, *, lowest: float = 0.0
) -> Estimate:
    """The estimate of `bootstrap_estimate`, from the mean and the values of the resamples.

    Resamples of few problems spread too little. So the distances of the percentiles from the mean are multiplied by
    `sqrt(N / (N - 1)) t / z`, where N is the number of problems and t the percentile of Student's distribution with
    N - 1 degrees of freedom (after Hesterberg, arXiv 1411.5279). The interval contains the mean, because resampling can
    bias a statistic, such as a calibration error. If all resamples are equal, the rule of `unseen_estimate` applies.
    """
    from scipy.special import stdtrit

    values = values[~np.isnan(values)]
    if not values.size or np.ptp(values) < 1e-12:
        return unseen_estimate(mean, n, lowest=lowest)
    low, high = np.percentile(values, (2.5, 97.5))
    wider = math.sqrt(problems / (problems - 1)) * float(stdtrit(problems - 1, 0.975)) / _Z
    below, above = wider * max(mean - float(low), 0.0), wider * max(float(high) - mean, 0.0)
    return Estimate(mean, max(lowest, mean - below), min(1.0, mean + above), n)


def unseen_estimate(mean: float, n: int, *, lowest: float = 0.0) -> Estimate:
    """The interval of a mean of n equal values in [lowest, 1], which show no spread.

    Other values are assumed to have a share of at most Wilson's upper limit for 0 in n, `z^2 / (n + z^2)`. They may lie
    anywhere in [lowest, 1].
    """
    unseen = _Z**2 / (max(n, 1) + _Z**2)
    return Estimate(mean, mean + unseen * (lowest - mean), mean + unseen * (1 - mean), n)


def standard_error(estimate: Interval) -> float:
    """The standard error of an estimate with known limits, from its 95 % interval."""
    assert estimate.low is not None and estimate.high is not None
    return (estimate.high - estimate.low) / (2 * _Z)


def pooled(estimates: Sequence[Interval], *, shared: bool = False) -> Estimate:
    """The mean of n >= 1 known estimates, with its 95 % interval.

    The interval is over the problems of each estimate. It does not generalise to other estimates. Estimates are
    independent, unless their problems are `shared`. Then their errors are taken for equal, so the interval is not too
    narrow.
    """
    limits = np.array([(estimate.low, estimate.mean, estimate.high) for estimate in estimates], dtype=np.float64)
    mean = float(limits[:, 1].mean())
    # Each side has its own distances, so the interval of a share stays within [0, 1].
    distances = np.linalg.norm(limits - limits[:, 1:2], ord=1 if shared else 2, axis=0) / len(limits)
    return Estimate(mean, mean - float(distances[0]), mean + float(distances[2]), len(limits))


def numbered(problems: Sequence[Hashable]) -> NDArray[np.int64]:
    """The number of each item's problem, [N], from 0 in order of appearance."""
    numbers = {problem: number for number, problem in enumerate(dict.fromkeys(problems))}
    return np.array([numbers[problem] for problem in problems], np.int64)


def members(numbers: ArrayLike) -> list[NDArray[np.int64]]:
    """The indices of each problem's items, from the number of each item's problem, [N]."""
    problem = np.asarray(numbers)
    order = np.argsort(problem, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(problem[order])) + 1) if len(order) else []


def times_drawn(drawn: NDArray[np.int64]) -> NDArray[np.float64]:
    """How often each problem occurs among the drawn indices: [..., problems], the shape of the argument."""
    rows = drawn.reshape(-1, drawn.shape[-1])
    width = rows.shape[1]
    places = rows + width * np.arange(len(rows))[:, None]
    return np.bincount(places.ravel(), minlength=rows.size).astype(np.float64).reshape(drawn.shape)


def _resampled(problems: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """Resamples of the problems with replacement, in arrays of shape [.., problems]."""
    generator = np.random.default_rng(seed)
    at_once = max(1, _DRAWN_AT_ONCE // problems)
    for done in range(0, _RESAMPLES, at_once):
        yield generator.integers(0, problems, size=(min(at_once, _RESAMPLES - done), problems))


def _checked_rates(values: ArrayLike, name: str) -> NDArray[np.float64]:
    rates = np.asarray(values, dtype=np.float64)
    if rates.ndim != 1 or rates.size == 0:
        raise ValueError(f"{name} has shape {rates.shape}; it must be one non-empty list, with a value per problem")
    rates = rates.round(12)  # a rounding error such as 1 - 1e-16 becomes 1
    bad = ~((rates >= 0) & (rates <= 1))  # NaN is bad too
    if bad.any():
        index = int(np.flatnonzero(bad)[0])
        raise ValueError(f"{name}[{index}] is {rates[index]}; it must lie in [0, 1]")
    return rates
