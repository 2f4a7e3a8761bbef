"""Verifier evaluation: hand groups, a simulated study, faults."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.special import expit

from qstep.evals import ScoredGroup, as_json, best_of_n_curves, best_of_n_report
from qstep.evals.intervals import ratio_difference
from qstep.search import best_of_n_accuracy, vote_accuracy


def simulated(n_groups: int, n_samples: int) -> list[ScoredGroup]:
    """Problems of mixed difficulty; "pqm" separates right from wrong better than "bce" does."""
    rng, groups = np.random.default_rng(0), []
    for g in range(n_groups):
        correct = (rng.random(n_samples) < rng.beta(1, 1.5)).astype(int)
        answers = [0 if right else int(rng.integers(1, 6)) for right in correct]
        scores = {
            name: (gain * correct + rng.normal(size=n_samples)).tolist() for name, gain in (("pqm", 2.0), ("bce", 0.5))
        }
        groups.append(ScoredGroup(f"p{g}", correct.tolist(), answers, scores))
    return groups


def test_two_groups_by_hand() -> None:
    """Group x: right with score 2, wrong with 1, 0. Group y: wrong with score 9, right with 1, no answer
    with -inf.

    n = 1: 1/3 each. n = 3, best score: x right, y wrong, mean 1/2. Majority of 3: x has 2 votes for the
    wrong "b", y ties "c" and "d" at 1/2: mean 1/4. Weighted, x: sigmoid(2) = .881 against sigmoid(1) +
    sigmoid(0) = 1.231, so wrong, y: sigmoid(9) beats sigmoid(1), wrong: mean 0. A perfect verifier has both.
    """
    groups = [
        ScoredGroup("x", [1, 0, 0], ["a", "b", "b"], {"v": [2.0, 1.0, 0.0]}),
        ScoredGroup("y", [0, 1, 0], ["c", "d", None], {"v": [9.0, 1.0, -np.inf]}),
    ]
    report = best_of_n_report(groups, [1, 3])
    means = {method: {n: e.mean for n, e in curve.items()} for method, curve in report.curves.items()}
    third = pytest.approx(1 / 3)
    assert means["mean"] == {"1": third, "3": third}
    assert means["v"] == {"1": third, "3": 0.5}
    assert means["majority"] == {"1": third, "3": 0.25}
    assert means["v_weighted"] == {"1": third, "3": 0}
    assert means["pass"] == {"1": third, "3": 1}
    assert {pair: difference.mean for pair, difference in report.differences.items()} == {
        "v_minus_majority": 0.25,
        "v_minus_mean": pytest.approx(1 / 6),
        "v_weighted_minus_majority": -0.25,
        "v_weighted_minus_mean": pytest.approx(-1 / 3),
        "v_weighted_minus_v": -0.5,
    }
    voted = report.differences["v_weighted_minus_v"]
    assert (voted.a, voted.b, voted.among, voted.name) == ("v_weighted", "v", 3, "v_weighted@3 - v")


def test_report_of_a_simulated_study() -> None:
    groups, ns = simulated(60, 16), [1, 4, 16]
    report = best_of_n_report(groups, ns)
    curves = best_of_n_curves(groups, ns)
    assert list(report.curves) == ["mean", "majority", "pass", "pqm", "bce", "pqm_weighted", "bce_weighted"]
    assert report == best_of_n_report(groups, ns)

    for method, of in report.outcomes.items():
        assert all(np.mean(of[n].right) == pytest.approx(report.curves[method][n].mean) for n in of), method
    mean = report.curves["mean"]["1"].mean
    for method, curve in curves.items():
        assert report.curves[method]["1"].mean == pytest.approx(mean), method
        for n in ns:
            estimate = report.curves[method][str(n)]
            assert estimate.low < estimate.mean < estimate.high
            assert estimate.mean == pytest.approx(curve[n].right.mean())
            assert (estimate.n, estimate.ungradable_share) == (60, 0)
            assert (curve[n].right <= curves["pass"][n].right + 1e-12).all(), "no chooser beats a perfect one"
    group = groups[7]
    chosen, voted = curves["pqm"][4].right[7], curves["pqm_weighted"][4].right[7]
    assert chosen == pytest.approx(best_of_n_accuracy(group.scores["pqm"], group.correct, 4))
    assert voted == pytest.approx(vote_accuracy(group.answers, group.correct, 4, expit(group.scores["pqm"])))
    difference = report.differences["pqm_minus_bce"]
    paired = ratio_difference((curves["pqm"][16].right, np.ones(60)), (curves["bce"][16].right, np.ones(60)))
    assert (difference.mean, difference.low, difference.high) == pytest.approx((paired.mean, paired.low, paired.high))
    assert difference.low > 0


def test_what_cannot_be_graded_is_never_called_wrong() -> None:
    """One problem: right, wrong, ungradable, scored 0, 1, 2, answers a, b, none.

    n = 1: a third each. n = 2, best score: {r,w} wrong, {r,u} and {w,u} ungradable: right 0, gradable 1/3. Vote of 2:
    {r,w} ties: right 1/2; {r,u} right; {w,u} wrong: right 1/2, gradable 1. Perfect: {r,w}, {r,u} right, {w,u} unknown:
    right 2/3, gradable 2/3. n = 3: best score ungradable; a perfect verifier is right.
    """
    group = ScoredGroup("x", [1, 0, None], ["a", "b", None], {"v": [0.0, 1.0, 2.0]})
    curves = best_of_n_curves([group], [1, 2, 3])
    found = {method: [(float(o.right[0]), float(o.gradable[0])) for o in of.values()] for method, of in curves.items()}
    third = pytest.approx(1 / 3)
    assert found["mean"] == [(third, pytest.approx(2 / 3))] * 3
    assert found["v"] == [(third, pytest.approx(2 / 3)), (0, third), (0, 0)]
    assert found["majority"][1] == (pytest.approx(0.5), 1)
    assert found["pass"] == [(third, pytest.approx(2 / 3)), (pytest.approx(2 / 3),) * 2, (1, 1)]
    report = best_of_n_report([group], [1, 2, 3])
    json.dumps(as_json(report.curves), allow_nan=False)
    assert report.curves["v"]["3"].mean is None, "nothing chosen can be graded"
    assert report.curves["v"]["3"].ungradable_share == 1
    assert report.differences["v_minus_majority"].mean is None


def test_problems_of_which_nothing_can_be_graded_break_nothing() -> None:
    groups = simulated(20, 8)
    lost = ScoredGroup("lost", [None] * 8, [None] * 8, {name: [0.0] * 8 for name in ("pqm", "bce")})
    with_lost, without = best_of_n_report([*groups, lost], [1, 8]), best_of_n_report(groups, [1, 8])
    for method, curve in with_lost.curves.items():
        for n, estimate in curve.items():
            assert estimate.mean == pytest.approx(without.curves[method][n].mean)
            assert (estimate.n, estimate.ungradable_share) == (20, pytest.approx(1 / 21))


def test_unequal_groups_are_judged_up_to_the_smallest() -> None:
    groups = simulated(3, 8)
    small = ScoredGroup("small", [1, 0], [1, 2], {"bce": [0.0, 1.0], "pqm": [1.0, 0.0]})
    assert best_of_n_curves([*groups, small], [2])["pqm"][2].right[3] == 1
    with pytest.raises(ValueError, match="problem 'small' has 2 responses"):
        best_of_n_curves([*groups, small], [2, 4])
    with pytest.raises(ValueError, match="problem 'p0'"):
        best_of_n_curves(groups, [0, 2])


def test_bad_groups_are_named() -> None:
    def group(**changes: object) -> ScoredGroup:
        return ScoredGroup(**{"problem_id": "x", "correct": [1, 0], "answers": [1, 2], "scores": {}} | changes)

    for changes, message in (
        ({"correct": []}, "'x': correct is"),
        ({"correct": [1, 0.5]}, "'x': correct is"),
        ({"answers": [1]}, "'x': 2 responses but 1 answers"),
        ({"scores": {"v": [1.0]}}, "'x': 2 responses but 1 scores by 'v'"),
        ({"scores": {"v": [1.0, np.nan]}}, "'x': score 1 by 'v' is NaN"),
    ):
        with pytest.raises(ValueError, match=message):
            group(**changes)
    with pytest.raises(ValueError, match=r"'y' has scores by \['w'\], not by \['v'\]"):
        scored = group(scores={"v": [1.0, 2.0]})
        best_of_n_curves([scored, group(problem_id="y", scores={"w": [1.0, 2.0]})], [1])
    for name in ("majority", "pass", "mean"):
        with pytest.raises(ValueError, match=f"two ways to choose are called '{name}': give the scorer another name"):
            best_of_n_curves([group(scores={name: [1.0, 2.0]})], [1])
    with pytest.raises(ValueError, match="two ways to choose are called 'v_weighted'"):
        best_of_n_curves([group(scores={"v": [1.0, 2.0], "v_weighted": [1.0, 2.0]})], [1])
    with pytest.raises(ValueError, match="at least one problem"):
        best_of_n_curves([], [1])
