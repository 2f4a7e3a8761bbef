"""Accuracy of a policy from graded rows, by hand, with what cannot be graded told apart."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest

from qstep.evals import (
    Outcomes,
    VerdictCounts,
    accuracy,
    accuracy_difference,
    mean_estimate,
    policy_difference,
    policy_report,
    ratio_estimate,
    verdicts_by_problem,
)
from qstep.evals.intervals import ratio_difference


def rows(**verdicts: str) -> list[dict[str, str]]:
    names = {"r": "right", "w": "wrong", "u": "ungradable"}
    return [{"problem_id": p, "prompt": p, "verdict": names[v]} for p, letters in verdicts.items() for v in letters]


def test_verdicts_are_counted_by_problem() -> None:
    problems = verdicts_by_problem(rows(a="rrwu", b="w"))
    assert problems == {"a": VerdictCounts(2, 1, 1), "b": VerdictCounts(0, 1, 0)}
    assert verdicts_by_problem(rows(a="rr", b="w") + rows(a="wu")) == problems


def test_prompts_that_share_an_id_are_problems_apart() -> None:
    other = [{**row, "prompt": "another question"} for row in rows(a="ww")]
    assert verdicts_by_problem([*rows(a="r"), *other]) == {
        "a": VerdictCounts(1, 0, 0),
        "a (prompt 2)": VerdictCounts(0, 2, 0),
    }


def test_report_weighs_problems_equally() -> None:
    """a: 2 of 4, b: 0 of 1, c: 1 of 1: mean (1/2 + 0 + 1) / 3 = 1/2."""
    report = policy_report(verdicts_by_problem(rows(a="rrww", b="w", c="r")))
    estimate = mean_estimate([0.5, 0, 1])
    assert asdict(report) == {
        **{"mean": 0.5, "low": estimate.low, "high": estimate.high, "n": 3},
        **{"ungradable_share": 0, "as_wrong": 0.5, "as_right": 0.5},
        **{"samples": 6, "right": 3, "wrong": 3, "ungradable": 0},
    }


def test_one_response_a_problem_has_the_wilson_interval() -> None:
    """Only where all is gradable; 8 right of 10: [.4902, .9433]."""
    report = policy_report(verdicts_by_problem(rows(**{f"p{i}": "r" if i < 8 else "w" for i in range(10)})))
    assert (report.low, report.high) == pytest.approx((0.4902, 0.9433), abs=1e-4)


def test_what_cannot_be_graded_is_never_called_wrong() -> None:
    """a: right 1/2, gradable 3/4; b: 0, 1; c: 0 of nothing gradable; d: 1, 1.

    Over the gradable (1/2 + 0 + 0 + 1) / (3/4 + 1 + 0 + 1) = 6/11 of 3 problems; ungradable (1/4 + 0 + 1 + 0) / 4 =
    5/16; as wrong (1/2 + 1) / 4 = 3/8; as right 3/8 + 5/16.
    """
    report = policy_report(verdicts_by_problem(rows(a="rrwu", b="w", c="uu", d="r")))
    assert report.mean == pytest.approx(6 / 11)
    assert report.n == 3
    assert report.ungradable_share == pytest.approx(5 / 16)
    assert (report.as_wrong, report.as_right) == pytest.approx((3 / 8, 11 / 16))
    expected = ratio_estimate([0.5, 0, 1], [0.75, 1, 1])
    assert (report.low, report.high) == (expected.low, expected.high)
    assert (report.right, report.wrong, report.ungradable) == (3, 2, 3)


def test_nothing_gradable_is_unknown_and_not_zero() -> None:
    report = policy_report(verdicts_by_problem(rows(a="uu", b="u")))
    assert (report.mean, report.low, report.high, report.n) == (None, None, None, 0)
    assert (report.ungradable_share, report.as_wrong, report.as_right) == (1, 0, 1)
    json.dumps(asdict(report), allow_nan=False)
    policies = {"ours": verdicts_by_problem(rows(a="uu")), "theirs": verdicts_by_problem(rows(a="rw"))}
    difference = policy_difference(policies, "ours", "theirs", "sampled")
    assert difference.mean is None and difference.as_wrong == -0.5


def test_the_bounds_enclose_the_mean() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        gradable = rng.random(20).round(1)
        report = accuracy(Outcomes(gradable * rng.random(20), gradable))
        assert report.as_wrong <= report.mean <= report.as_right
        assert report.as_right - report.as_wrong == pytest.approx(report.ungradable_share)


def test_difference_without_ungradable_is_the_paired_one() -> None:
    rng = np.random.default_rng(0)
    a, b, ones = rng.random(30), rng.random(30), np.ones(30)
    report, paired = accuracy_difference(Outcomes(a, ones), Outcomes(b, ones)), ratio_difference((a, ones), (b, ones))
    assert (report.mean, report.low, report.high) == pytest.approx((paired.mean, paired.low, paired.high))
    assert report.mean == pytest.approx(report.as_wrong) == pytest.approx((a - b).mean())


def test_difference_by_hand() -> None:
    """a over the gradable (1 + 1/2) / 2 = 3/4; b (1/4) / (1/2 + 1) = 1/6; the second problem of b is half unknown."""
    a, b = Outcomes([1, 0.5], [1, 1]), Outcomes([0, 0.25], [1, 0.5])
    difference = accuracy_difference(a, b)
    assert difference.mean == pytest.approx(3 / 4 - 1 / 6)
    assert difference.as_wrong == pytest.approx(3 / 4 - 1 / 8)
    assert difference.as_right == pytest.approx(3 / 4 - (1 / 8 + 1 / 4))


def test_policies_are_paired_by_problem() -> None:
    ours, theirs = verdicts_by_problem(rows(a="rr", b="rw")), verdicts_by_problem(rows(b="ww", a="rw"))
    policies = {"ours": ours, "theirs": theirs, "more": verdicts_by_problem(rows(a="r", b="r", c="r"))}
    difference = policy_difference(policies, "ours", "theirs", "greedy")
    assert difference.mean == pytest.approx(0.5) and difference.name == "ours - theirs (greedy)"
    with pytest.raises(ValueError, match="only one of ours and more answered problem 'c'"):
        policy_difference(policies, "ours", "more", "greedy")


def test_bad_rows_are_named() -> None:
    with pytest.raises(ValueError, match="row 1 has no field 'verdict'"):
        verdicts_by_problem([*rows(a="r"), {"problem_id": "a", "prompt": "a"}])
    with pytest.raises(ValueError, match="row 0 has no field 'problem_id'"):
        verdicts_by_problem([{"verdict": "right"}])
    with pytest.raises(ValueError, match="row 0: verdict True"):
        verdicts_by_problem([{"problem_id": "a", "prompt": "a", "verdict": True}])
    with pytest.raises(ValueError, match="there are no responses"):
        policy_report({})
    with pytest.raises(ValueError, match="no more right than gradable"):
        Outcomes([0.5], [0.25])
    with pytest.raises(ValueError, match="give one of each per problem"):
        Outcomes([0.5], [1, 1])
