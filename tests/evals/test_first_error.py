"""First errors: hand cases of ProcessBench's F1, brute force over thresholds, degenerate benchmarks, faults."""

from __future__ import annotations

import math

import numpy as np
import pytest

from qstep.evals import (
    Judgements,
    choose_threshold,
    first_error_report,
    mean_f1,
    position_accuracy,
    predicted_first_error,
    threshold_sweep,
)
from qstep.evals.intervals import ratio_estimate

Cases = list[tuple[list[float], int]]


def judged(cases: Cases, problems: list[str] | None = None) -> Judgements:
    return Judgements.of(
        [q for q, _ in cases], [error for _, error in cases], problems or [f"p{i}" for i in range(len(cases))]
    )


def plain_f1(cases: Cases, threshold: float) -> tuple[float, float, float]:
    """ProcessBench's computation, by its words alone."""
    hits: dict[bool, list[bool]] = {True: [], False: []}
    for q_values, error in cases:
        found = [i for i, q in enumerate(q_values) if q < threshold]
        hits[error != -1].append((found[0] if found else -1) == error)
    a, b = (sum(of) / len(of) for of in (hits[True], hits[False]))
    return (2 * a * b / (a + b) if a + b else 0.0), a, b


BY_HAND: Cases = [
    ([1.0, -1.0, -2.0], 1),  # found
    ([-1.0, 2.0, -3.0], 2),  # the first step below 0 is 0, too early
    ([3.0, 0.0], 1),  # 0 is not below 0: missed
    ([0.5], -1),  # right
    ([1.0, 0.0], -1),  # right
    ([1.0, -0.1], -1),  # a false alarm
]


def test_by_hand() -> None:
    """At Q = 0: 1 of 3 errors found, 2 of 3 correct ones left alone; F1 = 2 (1/3)(2/3) / 1 = 4/9."""
    report = first_error_report(judged(BY_HAND), 0.0)
    assert [predicted_first_error(q, 0.0) for q, _ in BY_HAND] == [1, 0, -1, -1, -1, 1]
    assert judged(BY_HAND).right(0.0).tolist() == [True, False, False, True, True, False]
    assert report.acc_error.mean == pytest.approx(1 / 3)
    assert report.acc_correct.mean == pytest.approx(2 / 3)
    assert report.f1.mean == pytest.approx(4 / 9)
    assert (report.n_error, report.n_correct, report.f1.n) == (3, 3, 6)
    for of in ("f1", "acc_error", "acc_correct"):
        assert getattr(report, of).low < getattr(report, of).mean < getattr(report, of).high


@pytest.mark.parametrize(
    ("threshold", "f1", "acc_error", "acc_correct"),
    [
        (-math.inf, 0.0, 0.0, 1.0),  # nothing is ever wrong: all predicted -1
        (math.inf, 0.0, 0.0, 0.0),  # every first step is wrong, and no case has its error there
    ],
)
def test_thresholds_at_the_ends(threshold: float, f1: float, acc_error: float, acc_correct: float) -> None:
    report = first_error_report(judged(BY_HAND), threshold)
    assert [getattr(report, of).mean for of in ("f1", "acc_error", "acc_correct")] == [f1, acc_error, acc_correct]
    if acc_error == acc_correct == 0:
        assert report.f1.high > 0, "six responses do not show that none can be right"


def test_without_an_error_or_without_a_correct_response_there_is_no_f1() -> None:
    only_errors, only_correct = judged(BY_HAND[:3]), judged(BY_HAND[3:])
    report = first_error_report(only_errors, 0.0)
    assert report.f1 is None and report.acc_correct is None
    assert report.acc_error.mean == pytest.approx(1 / 3)
    report = first_error_report(only_correct, 0.0)
    assert report.f1 is None and report.acc_error is None and report.n_error == 0
    assert np.isnan(threshold_sweep(only_correct, [0.0])["f1"]).all()
    assert mean_f1({"a": judged(BY_HAND), "b": only_errors}, 0.0) is None
    for subsets in ([only_errors], [judged(BY_HAND), only_correct], []):
        with pytest.raises(ValueError, match="give some of each"):
            choose_threshold(subsets)


def test_an_interval_is_over_problems() -> None:
    """Ten copies of two problems' responses know no more than two problems do."""
    once = judged(BY_HAND[:1] + BY_HAND[5:], ["a", "b"])
    copies = judged((BY_HAND[:1] + BY_HAND[5:]) * 10, ["a", "b"] * 10)
    apart = judged((BY_HAND[:1] + BY_HAND[5:]) * 10)
    of_once, of_copies, of_apart = (first_error_report(of, 0.0).acc_error for of in (once, copies, apart))
    assert (of_once.low, of_once.high) != (of_apart.low, of_apart.high)
    assert of_copies.mean == of_apart.mean == 1
    wide = first_error_report(judged(BY_HAND * 10, [f"p{i % 6}" for i in range(60)]), 0.0).f1
    narrow = first_error_report(judged(BY_HAND * 10), 0.0).f1
    assert wide.mean == pytest.approx(narrow.mean)
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)


def simulated(seed: int, n: int) -> Cases:
    rng = np.random.default_rng(seed)
    cases = []
    for _ in range(n):
        steps = int(rng.integers(1, 8))
        error = int(rng.integers(0, steps)) if rng.random() < 0.5 else -1
        q = rng.normal(size=steps).round(1) + 1.0  # ties
        if error >= 0:
            q[error:] -= 2
        cases.append((q.tolist(), error))
    return cases


def test_the_sweep_is_each_threshold_by_itself() -> None:
    cases = simulated(0, 200)
    at = [-np.inf, *np.linspace(-4, 4, 81).round(3), np.inf]
    swept = threshold_sweep(judged(cases), at)
    for i, threshold in enumerate(at):
        found = [swept[name][i] for name in ("f1", "acc_error", "acc_correct")]
        assert found == pytest.approx(plain_f1(cases, threshold))
        report = first_error_report(judged(cases), threshold) if i % 20 == 0 else None
        if report:
            assert [getattr(report, name).mean for name in ("f1", "acc_error", "acc_correct")] == pytest.approx(found)


def test_the_chosen_threshold_is_the_best_there_is() -> None:
    first, second = simulated(1, 60), simulated(2, 40)
    chosen = choose_threshold([judged(first), judged(second)])
    everywhere = sorted({q for q_values, _ in first + second for q in q_values})
    tried = [t + e for t in everywhere for e in (-0.01, 0, 0.01)]
    best = max((plain_f1(first, t)[0] + plain_f1(second, t)[0]) / 2 for t in tried)
    assert (plain_f1(first, chosen)[0] + plain_f1(second, chosen)[0]) / 2 == pytest.approx(best)
    assert best > 0.3
    separable: Cases = [([1.0, -3.0], 1), ([1.0, 2.0], -1)]
    assert choose_threshold([judged(separable)]) == -1.0, "the middle between -3 and 1"


def test_the_mean_is_over_subsets_however_large() -> None:
    large, small = simulated(3, 300), BY_HAND
    mean = mean_f1({"large": judged(large), "small": judged(small)}, 0.0)
    assert mean is not None
    assert mean.mean == pytest.approx((plain_f1(large, 0.0)[0] + 4 / 9) / 2)
    assert mean.low < mean.mean < mean.high and mean.n == 306
    assert mean == mean_f1({"large": judged(large), "small": judged(small)}, 0.0)
    alone = mean_f1({"large": judged(large)}, 0.0)
    report = first_error_report(judged(large), 0.0).f1
    assert alone is not None and alone.mean == report.mean
    assert alone.low == pytest.approx(report.low, abs=0.02)


@pytest.mark.parametrize(
    ("q_values", "errors", "says"),
    [
        ([[]], [-1], "response 0"),
        ([[0.0], [math.nan]], [-1, -1], "response 1: .*finite"),
        ([[0.0, 1.0]], [2], "first error 2 must be -1 or one of its 2 steps"),
        ([[0.0]], [-2], "first error -2"),
        ([], [], "at least one"),
    ],
)
def test_what_cannot_be_judged_is_named(q_values: list[list[float]], errors: list[int], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Judgements.of(q_values, errors, [str(i) for i in range(len(errors))])


def test_naming_one_step_in_all_finds_the_commonest_error() -> None:
    """Four responses with an error, at steps 2, 0, 2 and 1: step 2 is right in two of four, over three problems."""
    found = position_accuracy([2, 0, -1, 2, 1], ["a", "a", "b", "c", "d"])
    assert found is not None and (found.mean, found.n) == (0.5, 4)
    table = ratio_estimate([1, 1, 0], [2, 1, 1])
    assert (found.low, found.high) == (table.low, table.high)
    assert position_accuracy([-1, -1], ["a", "b"]) is None
