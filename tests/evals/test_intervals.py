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


def test_the_effective_number_of_problems_by_hand() -> None:
    """Rates .5, .5, 1, 0: the spread is .5, n p (1 - p) is 1, so the design effect is (.5 + .15) / (1 + .15) = .56522.

    Effective n: 4 / .56522 = 7.0769. Wilson at p = .5: centre .5, half sqrt(3.84146 / 7.0769 / 4 + (.54282 / 2)^2) /
    1.54282 = sqrt(.13570 + .07366) / 1.54282 = .29658. Numerators and denominators of twice the size change nothing.
    """
    estimate = mean_estimate([0.5, 0.5, 1, 0])
    assert (estimate.mean, estimate.low, estimate.high) == pytest.approx((0.5, 0.20342, 0.79658), abs=2e-5)
    assert ratio_estimate([1, 1, 2, 0], [2, 2, 2, 2]) == estimate


@pytest.mark.parametrize("n", [1, 2, 300])
def test_equal_values_are_not_certain(n: int) -> None:
    """All right: Wilson's [n / (n + z^2), 1]. All differences alike: a share z^2 / (n + z^2) may be unlike, -1 or 1."""
    right, quarter = mean_estimate([1.0] * n), mean_estimate([0.25] * n)
    unseen = Z2 / (n + Z2)
    assert (right.mean, right.low, right.high) == pytest.approx((1, 1 - unseen, 1))
    assert quarter.low < quarter.mean == 0.25 < quarter.high
    same = paired_difference([0.3] * n, [0.3] * n)
    assert (same.mean, same.low, same.high) == pytest.approx((0, -unseen, unseen))


@pytest.mark.parametrize("end", [0.0, 1.0])
def test_an_interval_does_not_jump_as_the_last_success_vanishes(end: float) -> None:
    """Of 20 problems 19 are all wrong (or right) and one has a share that shrinks to theirs; each step moves little."""
    shares = [abs(end - share) for share in (1 / 2, 1 / 4, 1 / 16, 1 / 64, 1e-3, 1e-4, 1e-6, 0)]
    limits = [(e.low, e.high) for e in (mean_estimate([end] * 19 + [share]) for share in shares)]
    assert max(np.abs(np.diff(limits, axis=0)).ravel()) < 0.04
    assert limits[-2] == pytest.approx(limits[-1], abs=1e-4)


CASES = {  # true rate, and rates of the given number of problems: a twentieth of the problems right, clustered or not
    "clustered": (0.05, lambda rng, n: rng.binomial(8, rng.beta(0.05, 0.95, n)) / 8),
    "alike": (0.01, lambda rng, n: rng.binomial(16, 0.01, n) / 16),
    "near 1": (0.95, lambda rng, n: rng.binomial(8, rng.beta(9.5, 0.5, n)) / 8),
    "one sample": (0.03, lambda rng, n: rng.binomial(1, 0.03, n) / 1),
    "either": (0.5, lambda rng, n: rng.binomial(8, rng.beta(0.3, 0.3, n)) / 8),
}


@pytest.mark.parametrize("n", [10, 20, 50])
@pytest.mark.parametrize("case", CASES)
def test_small_shares_of_few_problems_are_covered(case: str, n: int) -> None:
    """2,000 data sets. The percentile bootstrap covered .85 to .90 of most kinds, at 10 and 20 problems."""
    truth, drawn = CASES[case]
    rng = np.random.default_rng(0)
    found = [mean_estimate(drawn(rng, n)) for _ in range(2000)]
    assert np.mean([e.low <= truth <= e.high for e in found]) >= 0.93
    assert all(e.low < e.high for e in found)


@pytest.mark.parametrize("n", [2, 3, 5, 10])
def test_differences_over_few_problems_are_covered(n: int) -> None:
    """Two copies of one policy, 8 samples each, 400 times. Without Student's t, .09 to .2 of the intervals missed 0."""
    rng, one = np.random.default_rng(0), np.ones(n)
    shares = [rng.beta(2, 2, size=n) for _ in range(400)]
    pairs = [(rng.binomial(8, share) / 8, rng.binomial(8, share) / 8) for share in shares]
    found = [ratio_difference((a, one), (b, one)) for a, b in pairs]
    assert np.mean([not e.low <= 0 <= e.high for e in found]) < 0.075


def test_two_problems_show_no_difference() -> None:
    """The percentiles, .15 and .25, are .05 from the mean. Times `sqrt(2) 12.7 / 1.96`, that is .458."""
    found = ratio_difference(([0.25, 0.15], [1, 1]), ([0, 0], [1, 1]))
    assert (found.mean, found.low, found.high) == pytest.approx((0.2, 0.2 - 0.4584, 0.2 + 0.4584), abs=1e-3)


def test_rounding_hides_no_equal_values() -> None:
    """0.3 - 0.2 and 0.2 - 0.1 differ in binary; 1 - 1e-16 is a 1."""
    unequal, equal = paired_difference([0.3, 0.2], [0.2, 0.1]), paired_difference([0.2, 0.2], [0.1, 0.1])
    assert (unequal.low, unequal.high) == pytest.approx((equal.low, equal.high))
    assert mean_estimate([1 - 1e-16, 0, 1]) == mean_estimate([1, 0, 1])


def test_an_interval_is_the_normal_one_of_many_problems() -> None:
    values = np.random.default_rng(0).random(1000)
    estimate, half = mean_estimate(values), Z2**0.5 * values.std() / np.sqrt(1000)
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
    assert (estimate.mean, estimate.n) == (0.75, 2) and 0.2 < estimate.low < 0.4 and 0.93 < estimate.high < 1
    # 50 problems with 10 of 10 and 50 with 0 of 1: the resampled ratios lie about 500 / 550, not about 1/2.
    many = ratio_estimate([10, 0] * 50, [10, 1] * 50)
    assert many.mean == pytest.approx(500 / 550)
    assert 0.8 < many.low < many.mean < many.high < 0.97


def test_the_seed_decides() -> None:
    values = np.random.default_rng(3).random(30)
    pair = (values, np.ones(30)), (values**2, np.ones(30))
    assert ratio_difference(*pair, seed=1) == ratio_difference(*pair, seed=1) != ratio_difference(*pair, seed=2)


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
    """Half-widths .1 z and .2 z, errors .1 and .2: that of the mean of the two is sqrt(.01 + .04) / 2."""
    z = Z2**0.5
    two = [Estimate(0.2, 0.2 - 0.1 * z, 0.2 + 0.1 * z, 1), Estimate(0.4, 0.4 - 0.2 * z, 0.4 + 0.2 * z, 1)]
    assert [standard_error(estimate) for estimate in two] == pytest.approx([0.1, 0.2])
    both = pooled(two)
    assert (both.mean, both.n) == (pytest.approx(0.3), 2)
    assert (both.mean - both.low, both.high - both.mean) == pytest.approx((z * 0.05**0.5 / 2,) * 2)


def test_errors_of_shared_problems_do_not_average_out() -> None:
    four = [Estimate(0.03, -0.01, 0.07, 9)] * 4
    found = pooled(four, shared=True)
    assert (found.mean, found.low, found.high) == pytest.approx((0.03, -0.01, 0.07))
    assert pooled(four).low == pytest.approx(0.03 - 0.04 / 2)


def test_a_pooled_share_stays_within_its_bounds() -> None:
    """20 of 20 on three seeds: Wilson's lower limit is 20 / (20 + z^2), and nothing is above 1."""
    found = pooled([mean_estimate([1.0] * 20)] * 3)
    assert (found.mean, found.high) == (1.0, 1.0)
    assert found.low == pytest.approx(1 - (1 - 20 / (20 + Z2)) / 3**0.5)
