"""Accuracy of a policy from graded rows, by hand."""

from __future__ import annotations

import pytest

from qstep.evals import ProblemAccuracy, accuracy_by_problem, mean_estimate, policy_report


def rows(**verdicts: str) -> list[dict[str, str]]:
    names = {"r": "right", "w": "wrong", "u": "ungradable"}
    return [{"problem_id": p, "verdict": names[v]} for p, letters in verdicts.items() for v in letters]


def test_verdicts_are_counted_by_problem() -> None:
    problems = accuracy_by_problem(rows(a="rrwu", b="w"))
    assert problems == {"a": ProblemAccuracy(2, 1, 1), "b": ProblemAccuracy(0, 1, 0)}
    assert problems["a"].accuracy == 0.5
    assert accuracy_by_problem(rows(a="rr", b="w") + rows(a="wu")) == problems


def test_report_weighs_problems_equally_and_counts_ungradable() -> None:
    """a: 2 of 4, b: 0 of 1, c: 1 of 1: mean (1/2 + 0 + 1) / 3 = 1/2, not 3 of 6 by chance of the same
    sizes."""
    report = policy_report(rows(a="rrwu", b="w", c="r"))
    estimate = mean_estimate([0.5, 0, 1])
    assert report == {
        "mean": 0.5,
        "low": estimate.low,
        "high": estimate.high,
        "n": 3,
        "samples": 6,
        "right": 3,
        "wrong": 2,
        "ungradable": 1,
    }
    assert policy_report(rows(a="rrrw", b="w"))["mean"] == 0.375


def test_bad_rows_are_named() -> None:
    with pytest.raises(ValueError, match="row 1 has no field 'verdict'"):
        accuracy_by_problem([*rows(a="r"), {"problem_id": "a"}])
    with pytest.raises(ValueError, match="row 0 has no field 'problem_id'"):
        accuracy_by_problem([{"verdict": "right"}])
    with pytest.raises(ValueError, match="row 0: verdict True"):
        accuracy_by_problem([{"problem_id": "a", "verdict": True}])
    with pytest.raises(ValueError, match="no trajectory"):
        policy_report([])
