"""Intervals: closed forms by hand, coverage on simulated problems, degenerate data, faults."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import ArrayLike

from qstep.evals import mean_estimate, ratio_estimate
from qstep.evals.intervals import members, numbered, pooled, ratio_difference, standard_error
from qstep.types import Estimate

Z2 = 1.959963984540054**2


def paired_difference(a: ArrayLike, b: ArrayLike) -> Estimate:
    """Of one rate a problem."""
    ones = np.ones(np.shape(a))
    return ratio_difference((a, ones), (b, ones))


def test_wilson_by_hand() -> None:
    """8 of 10, z^2 = 3.8415: centre (0.8 + 0.19207) / 1.38415 = 0.71674, half width

    1.95996 sqrt(0.8*0.2/10 + 3.8415/400) / 1.38415 = 1.95996 * 0.160012 / 1.38415 = 0.226577.
    """
    estimate = mean_estimate([1] * 8 + [0] * 2)
    assert (estimate.mean, estimate.n) == (0.8, 10)
    assert estimate.low == pytest.approx(0.71674 - 0.22658, abs=2e-5)
    assert estimate.high == pytest.approx(0.71674 + 0.22658, abs=2e-5)


@pytest.mark.parametrize("n", [1, 2, 300])
def test_equal_values_are_not_certain(n: int) -> None:
    """All right: Wilson's [n / (n + z^2), 1]. All 0.25: a share u = z^2 / (n + z^2) may be unlike, 0 or 1."""
    right, quarter = mean_estimate([1.0] * n), mean_estimate([0.25] * n)
    unseen = Z2 / (n + Z2)
    assert (right.mean, right.low, right.high) == pytest.approx((1, 1 - unseen, 1))
    assert (quarter.mean, quarter.low, quarter.high) == pytest.approx((0.25, 0.25 * (1 - unseen), 0.25 + 0.75 * unseen))
    same = paired_difference([0.3] * n, [0.3] * n)
    assert (same.mean, same.low, same.high) == pytest.approx((0, -unseen, unseen))


def test_rounding_hides_no_equal_values() -> None:
    """0.3 - 0.2 and 0.2 - 0.1 differ in binary; 1 - 1e-16 is a 1."""
    unequal, equal = paired_difference([0.3, 0.2], [0.2, 0.1]), paired_difference([0.2, 0.2], [0.1, 0.1])
    assert (unequal.low, unequal.high) == pytest.approx((equal.low, equal.high))
    assert mean_estimate([1 - 1e-16, 0, 1]) == mean_estimate([1, 0, 1])


def test_bootstrap_matches_the_normal_interval_of_many_problems() -> None:
    values = np.random.default_rng(0).random(1000)
    estimate, half = mean_estimate(values), 1.96 * values.std() / np.sqrt(1000)
    assert estimate.mean == pytest.approx(values.mean())
    assert estimate.low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert estimate.high == pytest.approx(values.mean() + half, abs=0.1 * half)


def test_intervals_cover_the_truth_19_times_in_20() -> None:
    """200 data sets of 60 problems: a 95 % interval covers 190 times, standard deviation 3.1; 178 is 4
    below."""
    rng = np.random.default_rng(1)
    rates, bits = rng.beta(1, 2, size=(200, 60)), rng.random((200, 60)) < 0.1
    covers = [estimate.low <= 1 / 3 <= estimate.high for estimate in map(mean_estimate, rates)]
    covers_bits = [estimate.low <= 0.1 <= estimate.high for estimate in map(mean_estimate, bits)]
    assert 178 <= sum(covers) <= 199
    assert 178 <= sum(covers_bits) <= 199


def test_pairing_removes_what_problems_share() -> None:
    """Scores rise by 0.1 +- 0.02 on problems between 0 and 0.8: clear when paired, within noise when not."""
    rng = np.random.default_rng(2)
    before = 0.8 * rng.random(40)
    after = before + 0.1 + 0.02 * rng.uniform(-1, 1, 40)
    difference = paired_difference(after, before)
    assert difference.mean == pytest.approx(after.mean() - before.mean())
    assert 0.08 < difference.low < difference.mean < difference.high < 0.12
    assert mean_estimate(after).low < mean_estimate(before).high
    swapped = paired_difference(before, after)
    assert (swapped.low, swapped.high) == pytest.approx((-difference.high, -difference.low), abs=1e-9)


def test_ratio_weighs_clusters_by_their_size() -> None:
    """9 of 10 steps in one problem and 0 of 2 in the other: 9 / 12, not the mean of .9 and 0."""
    estimate = ratio_estimate([9, 0], [10, 2])
    assert (estimate.mean, estimate.low, estimate.high, estimate.n) == pytest.approx((0.75, 0, 0.9, 2))
    # 50 problems with 10 of 10 and 50 with 0 of 1: the resampled ratios lie about 500 / 550, not about 1/2.
    many = ratio_estimate([10, 0] * 50, [10, 1] * 50)
    assert many.mean == pytest.approx(500 / 550)
    assert 0.8 < many.low < many.mean < many.high < 0.97


def test_the_seed_decides() -> None:
    values = np.random.default_rng(3).random(30)
    assert mean_estimate(values, seed=1) == mean_estimate(values, seed=1) != mean_estimate(values, seed=2)


def test_bad_values_are_refused() -> None:
    with pytest.raises(ValueError, match=r"values\[1\] is nan"):
        mean_estimate([0.5, np.nan])
    with pytest.raises(ValueError, match=r"values\[0\] is 1\.5"):
        mean_estimate([1.5])
    with pytest.raises(ValueError, match="non-empty"):
        mean_estimate([])
    with pytest.raises(ValueError, match="denominators"):
        ratio_estimate([0, 1], [0, 1])
    with pytest.raises(ValueError, match=r"ratios\[0\] is 2"):
        ratio_estimate([2], [1])


def test_items_are_grouped_by_problem_whatever_their_order() -> None:
    numbers = numbered(["b", "a", "b", ("c", 1), "a"])
    assert numbers.tolist() == [0, 1, 0, 2, 1]
    assert [places.tolist() for places in members(numbers)] == [[0, 2], [1, 4], [3]]
    assert members(numbered([])) == []


def test_independent_estimates_are_pooled_by_hand() -> None:
    """Half-widths .196 and .392, errors .1 and .2: that of the mean of the two is sqrt(.01 + .04) / 2."""
    two = [{"mean": 0.2, "low": 0.004, "high": 0.396}, {"mean": 0.4, "low": 0.008, "high": 0.792}]
    assert [standard_error(estimate) for estimate in two] == pytest.approx([0.1, 0.2])
    both = pooled(two)
    assert (both.mean, both.n) == (pytest.approx(0.3), 2)
    assert (both.mean - both.low, both.high - both.mean) == pytest.approx((1.96 * 0.05**0.5 / 2,) * 2)
