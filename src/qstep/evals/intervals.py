"""95 % confidence intervals over problems: the problem is the unit drawn, its responses share its luck."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import binomtest

from qstep.types import Estimate


def mean_estimate(values: ArrayLike, *, seed: int = 0, resamples: int = 2000) -> Estimate:
    """The mean of one rate in [0, 1] per problem, [n], with its 95 % interval.

    Wilson's interval where every value is 0 or 1. Otherwise the percentile bootstrap over problems, or,
    where all values are equal so that resampling shows no spread, the rule of `ratio_estimate`. Raises
    ValueError on no value or one outside [0, 1].
    """
    rates = _checked_rates(values, "values")
    if np.isin(rates, (0.0, 1.0)).all():
        wilson = binomtest(int(rates.sum()), len(rates)).proportion_ci(method="wilson")
        return Estimate(float(rates.mean()), float(wilson.low), float(wilson.high), len(rates))
    return ratio_estimate(rates, np.ones_like(rates), seed=seed, resamples=resamples)


def paired_difference(a: ArrayLike, b: ArrayLike, *, seed: int = 0, resamples: int = 2000) -> Estimate:
    """The mean of `a - b`, two rates in [0, 1] of the same n problems, with its paired 95 % interval.

    Percentile bootstrap over problems. Where all differences are equal the rule of `ratio_estimate` holds,
    with rates in [-1, 1]. Raises ValueError on different lengths, no value, or one outside [0, 1].
    """
    rates_a, rates_b = _checked_rates(a, "a"), _checked_rates(b, "b")
    if len(rates_a) != len(rates_b):
        raise ValueError(f"a has {len(rates_a)} problems and b has {len(rates_b)}: pair them by problem first")
    return _bootstrap(rates_a - rates_b, np.ones(len(rates_a)), lowest=-1.0, seed=seed, resamples=resamples)


def ratio_estimate(numerators: ArrayLike, denominators: ArrayLike, *, seed: int = 0, resamples: int = 2000) -> Estimate:
    """`sum numerators / sum denominators` over n problems, with its 95 % percentile bootstrap interval.

    For rates of things that come in clusters (steps agreed on / steps, of each problem). Where the n ratios
    are all equal, resampling shows no spread and would claim certainty; then problems unlike these are taken
    to have a share of at most Wilson's upper limit for 0 in n, z^2 / (n + z^2), and a ratio anywhere in [0,
    1]. (For all 0 or all 1 this is Wilson's interval.) Raises ValueError on different lengths, no problem, a
    denominator that is not positive, or a ratio outside [0, 1].
    """
    weights = np.asarray(denominators, dtype=np.float64)
    if weights.shape != np.shape(numerators) or not (np.isfinite(weights) & (weights > 0)).all():
        raise ValueError("denominators must be positive and finite, one for each numerator")
    rates = _checked_rates(np.asarray(numerators, dtype=np.float64) / weights, "ratios")
    return _bootstrap(rates, weights, lowest=0.0, seed=seed, resamples=resamples)


def _bootstrap(
    rates: NDArray[np.float64], weights: NDArray[np.float64], *, lowest: float, seed: int, resamples: int
) -> Estimate:
    """The weighted mean of rates in [lowest, 1], resampled by problem."""
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, got {resamples}")
    n = len(rates)
    if np.ptp(rates) < 1e-12:
        mean, unseen = float(rates[0]), float(binomtest(0, n).proportion_ci(method="wilson").high)
        return Estimate(mean, mean + unseen * (lowest - mean), mean + unseen * (1 - mean), n)
    drawn = np.random.default_rng(seed).integers(0, n, size=(resamples, n))
    means = (rates * weights)[drawn].sum(axis=1) / weights[drawn].sum(axis=1)
    low, high = np.percentile(means, (2.5, 97.5))
    return Estimate(float(rates @ weights / weights.sum()), float(low), float(high), n)


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
