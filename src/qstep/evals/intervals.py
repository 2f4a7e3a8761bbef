"""95 % confidence intervals. The unit is the problem, because responses to one problem are not independent."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qstep.types import Estimate

Ratio = tuple[ArrayLike, ArrayLike]
"""Numerators and denominators of n problems, [n] each."""


class Interval(Protocol):
    """A mean with its limits; None where they are unknown."""

    @property
    def mean(self) -> float | None: ...
    @property
    def low(self) -> float | None: ...
    @property
    def high(self) -> float | None: ...


_Z = 1.959963984540054
_INFORMATION = 0.15
"""How much is believed before anything is seen of a share's design effect, which then is 1.

In units of `n p (1 - p)`: with ten problems at p = .5 it has a weight of 6 in 100. Chosen by
simulation: the least at which 10 to 200 problems with shares of 1 to 50 % are covered 93 times in 100 or more.
"""
_RESAMPLES = 2000
_DRAWN_AT_ONCE = 1 << 20


def mean_estimate(values: ArrayLike) -> Estimate:
    """The mean of one rate in [0, 1] per problem, [n], with its 95 % interval: `ratio_estimate` with denominators 1.

    Wilson's interval where every value is 0 or 1. Raises ValueError on no value or one outside [0, 1].
    """
    rates = _checked_rates(values, "values")
    return ratio_estimate(rates, np.ones_like(rates))


def ratio_estimate(numerators: ArrayLike, denominators: ArrayLike) -> Estimate:
    """`sum numerators / sum denominators` over n problems, with its 95 % interval, Wilson's at an effective n.

    For rates of things that come in clusters (steps agreed on / steps, of each problem). The effective n is n over the
    design effect: the variance of a problem's share over `p (1 - p)`, which it would be if each share were 0 or 1.
    Where little was seen, p near 0 or 1 or n small, the design effect is drawn to 1 (see `_INFORMATION`). So the
    interval grows into that of no success in n as the last success vanishes, and never has no width. Raises ValueError
    on different lengths, no problem, a denominator that is not positive, or a ratio outside [0, 1].
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
    """Wilson's 95 % interval of a share of n, which need not be whole."""
    square = _Z**2 / n
    centre, half = share + square / 2, math.sqrt(square * share * (1 - share) + square**2 / 4)
    return max(0.0, (centre - half) / (1 + square)), min(1.0, (centre + half) / (1 + square))


def ratio_difference(a: Ratio, b: Ratio, *, seed: int = 0) -> Estimate:
    """`sum a_above / sum a_below - sum b_above / sum b_below` over the same n problems, with its paired 95 % interval.

    Percentile bootstrap over problems, see `percentile_estimate`; differences lie in [-1, 1]. A problem may have a
    denominator of 0, with a numerator of 0, on either side; its `n` counts the problems where neither has. A resample
    in which a side has no other problem is left out.
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
    """A statistic in [lowest, 1] of the problems with the given indices [..., problems], resampled by problem.

    Percentile bootstrap, see `percentile_estimate`. A resample of which the statistic is NaN (it is not defined there)
    is left out. `n` is what the estimate says it is over.
    """
    return percentile_estimate(
        float(statistic(np.arange(problems))), replicates(statistic, problems, seed=seed), n, lowest=lowest
    )


def replicates(
    statistic: Callable[[NDArray[np.int64]], NDArray[np.float64]], problems: int, *, seed: int = 0
) -> NDArray[np.float64]:
    """The statistic of each resample by problem, [resamples]."""
    return np.concatenate([statistic(drawn) for drawn in _resampled(problems, seed)])


def percentile_estimate(mean: float, values: NDArray[np.float64], n: int, *, lowest: float = 0.0) -> Estimate:
    """The interval of `bootstrap_estimate`, given what it is of and the values of its resamples.

    The interval holds the estimate: where resampling moves a statistic (it makes a calibration error larger), it
    reaches from there. Where all resamples are equal the rule of `unseen_estimate` holds.
    """
    values = values[~np.isnan(values)]
    if not values.size or np.ptp(values) < 1e-12:
        return unseen_estimate(mean, n, lowest=lowest)
    low, high = np.percentile(values, (2.5, 97.5))
    return Estimate(mean, min(float(low), mean), max(float(high), mean), n)


def unseen_estimate(mean: float, n: int, *, lowest: float = 0.0) -> Estimate:
    """The interval of a mean of n values in [lowest, 1] that are all equal, and so show no spread.

    Values unlike these are taken to have a share of at most Wilson's upper limit for 0 in n, `z^2 / (n + z^2)`, and to
    lie anywhere in [lowest, 1].
    """
    unseen = _Z**2 / (max(n, 1) + _Z**2)
    return Estimate(mean, mean + unseen * (lowest - mean), mean + unseen * (1 - mean), n)


def standard_error(estimate: Interval) -> float:
    """Of an estimate of which the limits are known, read off its 95 % interval."""
    assert estimate.low is not None and estimate.high is not None
    return (estimate.high - estimate.low) / (2 * 1.96)


def pooled(estimates: Sequence[Interval]) -> Estimate:
    """The mean of n independent estimates, one at least and all known, with its 95 % interval.

    The interval is over the problems of each, not over all that might have been estimated.
    """
    n = len(estimates)
    mean = sum(estimate.mean or 0.0 for estimate in estimates) / n
    half = 1.96 * math.sqrt(sum(standard_error(estimate) ** 2 for estimate in estimates)) / n
    return Estimate(mean, mean - half, mean + half, n)


def numbered(problems: Sequence[Hashable]) -> NDArray[np.int64]:
    """The number of each item's problem, [N], from 0 in order of appearance."""
    numbers = {problem: number for number, problem in enumerate(dict.fromkeys(problems))}
    return np.array([numbers[problem] for problem in problems], np.int64)


def members(numbers: ArrayLike) -> list[NDArray[np.int64]]:
    """The places of each problem's items, given the number of each item's problem, [N]."""
    problem = np.asarray(numbers)
    order = np.argsort(problem, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(problem[order])) + 1) if len(order) else []


def times_drawn(drawn: NDArray[np.int64]) -> NDArray[np.float64]:
    """How often each of the problems is among the indices drawn of them: [..., problems], of the same shape."""
    rows = drawn.reshape(-1, drawn.shape[-1])
    width = rows.shape[1]
    places = rows + width * np.arange(len(rows))[:, None]
    return np.bincount(places.ravel(), minlength=rows.size).astype(np.float64).reshape(drawn.shape)


def _resampled(problems: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """Draws of as many problems with replacement, [.., problems] at a time."""
    generator = np.random.default_rng(seed)
    at_once = max(1, _DRAWN_AT_ONCE // problems)
    for done in range(0, _RESAMPLES, at_once):
        yield generator.integers(0, problems, size=(min(at_once, _RESAMPLES - done), problems))


def _checked_rates(values: ArrayLike, name: str) -> NDArray[np.float64]:
    rates = np.asarray(values, dtype=np.float64)
    if rates.ndim != 1 or rates.size == 0:
        raise ValueError(f"{name} must be one non-empty list, one per problem, got shape {rates.shape}")
    rates = rates.round(12)  # an expectation summed to 1 - 1e-16 is a 1
    bad = ~((rates >= 0) & (rates <= 1))  # NaN is bad too
    if bad.any():
        index = int(np.flatnonzero(bad)[0])
        raise ValueError(f"{name}[{index}] is {rates[index]}: a rate lies in [0, 1]")
    return rates
