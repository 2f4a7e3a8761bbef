"""Calibration, the AUC of all, lengths, aggregations and over-optimisation: hand arithmetic and simulations."""

from __future__ import annotations

import math

import numpy as np
import pytest

from qstep.evals import ScoredGroup, aggregation_report, auc, auc_estimate, best_of_n_report, calibration, length_report
from qstep.evals.measures import OverOptimisation


def logit(p: float) -> float:
    return math.log(p / (1 - p))


def test_calibration_by_hand() -> None:
    """Two bins of two: p .2, .4 with none right, |.3 - 0|; p .6, .8 with one right, |.7 - .5|. ECE (.3 + .2) / 2."""
    q = [logit(p) for p in (0.8, 0.2, 0.6, 0.4)]
    found = calibration(q, [1, 0, 0, 0], ["a", "b", "c", "d"], bins=2)
    assert found.ece.mean == pytest.approx(0.25)
    low, high = found.reliability
    assert (low.low, low.high, low.predicted) == pytest.approx((0.2, 0.4, 0.3)) and (low.right, low.steps) == (0.0, 2)
    assert (high.predicted, high.right, high.steps) == (pytest.approx(0.7), 0.5, 2)
    assert found.ece.low <= 0.25 <= found.ece.high and found.ece.n == 4


def test_calibration_at_its_ends() -> None:
    sure = calibration([40.0] * 5 + [-40.0] * 5, [1] * 5 + [0] * 5, list(range(10)))
    assert sure.ece.mean == pytest.approx(0) and sure.ece.high > 0.2, "ten steps prove little"
    assert [bin.steps for bin in sure.reliability] == [5, 5], "equal probabilities are one bin"
    lying = calibration([40.0] * 5 + [-40.0] * 5, [0] * 5 + [1] * 5, list(range(10)))
    assert lying.ece.mean == pytest.approx(1)
    for q, labels, problems in (([0.0], [2], ["a"]), ([math.nan], [1], ["a"]), ([], [], []), ([0.0], [1], [])):
        with pytest.raises(ValueError):
            calibration(q, labels, problems)
    with pytest.raises(ValueError, match="bins is 0"):
        calibration([0.0], [1], ["a"], bins=0)


def test_a_calibrated_scorer_has_a_small_error_and_a_shifted_one_its_shift() -> None:
    rng = np.random.default_rng(0)
    p = rng.uniform(0.05, 0.75, 20_000)
    right = (rng.random(20_000) < p).astype(int)
    problems = [int(i) // 10 for i in range(20_000)]
    q = np.log(p / (1 - p))
    assert calibration(q, right, problems).ece.mean < 0.015
    shifted = p + 0.2
    found = calibration(np.log(shifted / (1 - shifted)), right, problems).ece
    assert found.mean == pytest.approx(0.2, abs=0.015) and found.low < 0.2 < found.high
    counts = [bin.steps for bin in calibration(q, right, problems).reliability]
    assert counts == [2000] * 10


@pytest.mark.parametrize(
    ("steps", "sizes"), [(10, [1] * 10), (12630, [1263] * 10), (5, [1] * 5), (12, [2, 1, 1, 1, 1, 2, 1, 1, 1, 1])]
)
def test_bins_have_equally_many_steps(steps: int, sizes: list[int]) -> None:
    """Bin i of 10 ends with step ceil(i N / 10): of 12 steps with 2, 3, 4, 5, 6, 8, 9, 10, 11, 12."""
    found = calibration(np.linspace(-3, 3, steps), np.arange(steps) % 2, list(range(steps)))
    assert [bin.steps for bin in found.reliability] == sizes


def test_the_auc_of_all_is_resampled_by_problem() -> None:
    rng = np.random.default_rng(1)
    right = rng.integers(0, 2, 300)
    scores = (right + rng.normal(size=300)).round(1)  # ties
    apart = auc_estimate(scores, right, list(range(300)))
    together = auc_estimate(scores, right, [i // 30 for i in range(300)])
    assert apart is not None and together is not None
    assert apart.mean == pytest.approx(auc(scores, right)) == pytest.approx(together.mean)
    assert (apart.n, together.n) == (300, 10)
    assert 0.04 < apart.high - apart.low < 0.16
    assert auc_estimate([0.0, 1.0], [1, 1], ["a", "b"]) is None
    drawn = [auc(scores[rows], right[rows]) for rows in np.random.default_rng(2).integers(0, 300, (400, 300))]
    assert apart.low == pytest.approx(np.percentile(drawn, 2.5), abs=0.01)
    assert apart.high == pytest.approx(np.percentile(drawn, 97.5), abs=0.01)


def test_lengths_by_hand() -> None:
    """Problem a: scores 3, 2, 1 of 1, 2, 3 steps; problem b: scores 1, 2 of 1, 2 steps; c has one response.

    Within a rho is -1, within b 1: mean 0. The pick of a has fewer steps than both others, 1; that of b fewer than
    none, 0; mean .5. Right ones: scores 3, 2, 2 of 1, 2, 2 steps; wrong ones: scores 1, 1, which is constant.
    One of six has one step twice: single_step = 3 / 6.
    """
    report = length_report(
        [3.0, 2.0, 1.0, 1.0, 2.0, 0.0],
        {"steps": [1, 2, 3, 1, 2, 1], "characters": [5, 5, 5, 5, 5, 5]},
        [True, True, False, False, True, None],
        ["a", "a", "a", "b", "b", "c"],
    )
    steps = report.correlation["steps"]
    assert steps["within_problem"].mean == pytest.approx(0) and steps["within_problem"].n == 2
    assert steps["right"].mean == pytest.approx(-1) and steps["wrong"] is None
    assert steps["all"].mean == pytest.approx(np.corrcoef([6, 4.5, 2.5, 2.5, 4.5, 1], [2, 4.5, 6, 2, 4.5, 2])[0, 1])
    assert report.correlation["characters"] == dict.fromkeys(("all", "right", "wrong", "within_problem"))
    assert report.fewer_steps["all"].mean == pytest.approx(0.5)
    assert report.fewer_steps["right"].mean == 1 and report.fewer_steps["right"].n == 1
    assert report.fewer_steps["wrong"] is None
    assert report.single_step == 0.5
    with pytest.raises(ValueError, match="for every response"):
        length_report([1.0], {"steps": [1, 2]}, [True], ["a"])


def test_a_scorer_that_avoids_separators_is_seen_and_one_that_does_not_is_not() -> None:
    """The lowest of k numbers falls with k; their mean does not."""
    rng = np.random.default_rng(0)
    steps = rng.integers(1, 12, 3000)
    qs = [rng.normal(size=k) for k in steps]
    problems = [i // 10 for i in range(3000)]
    verdicts: list[bool | None] = rng.integers(0, 2, 3000).astype(bool).tolist()
    lowest, mean = (
        length_report([float(of(q)) for q in qs], {"steps": steps.tolist()}, verdicts, problems)
        for of in (np.min, np.mean)
    )
    for kind in ("all", "right", "wrong", "within_problem"):
        assert lowest.correlation["steps"][kind].high < -0.3
    assert lowest.fewer_steps["right"].low > 0.6
    low, high = (getattr(mean.correlation["steps"]["all"], limit) for limit in ("low", "high"))
    assert low < 0.05 and high > -0.05 and high - low < 0.12


def test_aggregations_side_by_side() -> None:
    """Right: Qs 0, 4; wrong: 1, 1. min and product pick the wrong one, last and mean the right one.

    Product: sigmoid(0) sigmoid(4) = .491 against sigmoid(1)^2 = .534.
    """
    groups = [ScoredGroup(f"p{i}", [1, 0], ["a", "b"], {}) for i in range(3)]
    q_values = {"v": [[[0.0, 4.0], [1.0, 1.0]]] * 3}
    report = aggregation_report(groups, q_values, [1, 2], ["min", "last", "mean", "product"])[0]
    curves = report["v"].curves
    hows = ["min", "last", "mean", "product"]
    assert list(curves) == [*hows, *(f"{how}_weighted" for how in hows)]
    assert {how: curves[how]["2"].mean for how in ("min", "last", "mean", "product")} == {
        "min": 0,
        "last": 1,
        "mean": 1,
        "product": 0,
    }
    assert all(curves[how]["1"].mean == 0.5 for how in curves)
    assert report["v"].differences["min_minus_last"].mean == -1
    assert len(report["v"].differences) == 6
    with pytest.raises(ValueError, match="unknown aggregation 'median'"):
        aggregation_report(groups, q_values, [1], ["median"])  # type: ignore[list-item]


def test_over_optimisation_is_where_the_curve_turns() -> None:
    """In each of 40 problems the highest score is of a wrong response, then come right ones, then wrong ones.

    v: best of 1 is right at 2/6; of 6 never, so it falls after a peak. "fair" scores by correctness and never falls.
    """
    groups = [
        ScoredGroup(
            f"p{i}",
            [0, 1, 1, 0, 0, 0],
            list("abbcde"),
            {"v": [9.0, 5.0, 4.0, 1.0, 0.0, -1.0], "fair": [0.0, 1.0, 1.0, 0.0, 0.0, 0.0]},
        )
        for i in range(40)
    ]
    report = best_of_n_report(groups, [1, 2, 4, 6])
    means = {n: of.mean for n, of in report.curves["v"].items()}
    assert means == {"1": pytest.approx(2 / 6), "2": pytest.approx(7 / 15), "4": pytest.approx(5 / 15), "6": 0}
    found = report.over_optimisation
    assert found["v"].peak_n == 2
    assert found["v"].drop.mean == pytest.approx(7 / 15) and found["v"].drop.low > 0
    assert found["fair"] == OverOptimisation(peak_n=6, drop=None)
    assert set(found) == {"v", "fair", "v_weighted", "fair_weighted"}
    unknown = [ScoredGroup("x", [None, None], ["a", "b"], {"v": [0.0, 1.0]})]
    assert best_of_n_report(unknown, [1, 2]).over_optimisation["v"] == OverOptimisation(peak_n=None, drop=None)
