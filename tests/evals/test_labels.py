"""Agreement of Monte-Carlo labels with exact ones, by hand, clustered, and with faults."""

from __future__ import annotations

import numpy as np
import pytest

from qstep.evals import label_agreement


def test_by_hand() -> None:
    """Exact 1 1 0 0 | 1 0; successes of 4 trials 4 1 1 0 | 3 0.

    hard (any): 1 1 1 0 | 1 0: 5 of 6 agree; exact is correct 3/6, hard 4/6: chance 1/3 + 1/6 = 1/2, kappa
    (5/6 - 1/2) / (1/2) = 2/3. half (>= 2 of 4): 1 0 0 0 | 1 0: 5 of 6; chance 1/2*1/3 + 1/2*2/3 = 1/2, kappa
    2/3.
    """
    report = label_agreement([[1, 1, 0, 0], [1, 0]], [[4, 1, 1, 0], [3, 0]], [[4] * 4, [4] * 2], ["x", "y"])
    assert (report.n_problems, report.n_rows, report.n_steps) == (2, 2, 6)
    for reading in ("hard", "half"):
        assert getattr(report, reading).agreement.mean == pytest.approx(5 / 6)
        assert getattr(report, reading).kappa == pytest.approx(2 / 3)
    assert report.hard.confusion == {
        "both_correct": 3,
        "both_wrong": 2,
        "only_exact_correct": 0,
        "only_monte_carlo_correct": 1,
    }
    assert report.half.confusion == {
        "both_correct": 2,
        "both_wrong": 3,
        "only_exact_correct": 1,
        "only_monte_carlo_correct": 0,
    }


def test_half_is_counted_as_correct() -> None:
    report = label_agreement([[1, 1]], [[2, 1]], [[4, 3]], ["x"])
    assert report.half.confusion["both_correct"] == 1


def test_the_interval_is_clustered_by_problem() -> None:
    """Ten rows of one problem share its luck: the same steps under ten ids are ten times the evidence."""
    rng = np.random.default_rng(0)
    exact = rng.integers(0, 2, size=(40, 5)).tolist()
    hits = [[1 - y if row % 4 == 0 else y for y in labels] for row, labels in enumerate(exact)]
    trials = [[1] * 5] * 40
    apart = label_agreement(exact, hits, trials, range(40)).hard.agreement
    together = label_agreement(exact, hits, trials, [row % 4 for row in range(40)]).hard.agreement
    assert together.mean == apart.mean
    assert (together.n, apart.n) == (4, 40)
    assert together.high - together.low > 1.5 * (apart.high - apart.low)


def test_kappa_is_undefined_where_both_labels_are_constant() -> None:
    report = label_agreement([[1, 1]], [[1, 2]], [[2, 2]], ["x"])
    assert report.hard.kappa is None
    assert report.hard.agreement.mean == 1
    assert report.hard.agreement.low < 0.5, "one problem proves little"


def test_a_row_without_steps_adds_nothing() -> None:
    with_empty = label_agreement([[1, 0], []], [[1, 1], []], [[1, 1], []], ["x", "y"])
    assert with_empty.hard == label_agreement([[1, 0]], [[1, 1]], [[1, 1]], ["x"]).hard
    with pytest.raises(ValueError, match="no step"):
        label_agreement([[]], [[]], [[]], ["x"])


def test_what_was_not_tried_or_not_labelled_is_left_out_and_counted() -> None:
    """Of 6 steps one has no exact label, one no trial, and two belong to a row without rollouts: 2 are compared."""
    report = label_agreement(
        [[1, None, 0, 1], [1, 0], []], [[2, 1, 0, 0], None, None], [[2, 2, 2, 0], None, None], ["x", "y", "z"]
    )
    assert (report.n_steps, report.n_rows, report.n_problems) == (2, 1, 1)
    assert (report.n_unlabelled_steps, report.n_untried_steps) == (1, 3)
    assert report.hard == label_agreement([[1, 0]], [[2, 0]], [[2, 2]], ["x"]).hard
    with pytest.raises(ValueError, match="none has both an exact label and a rollout"):
        label_agreement([[1], [None]], [[0], [1]], [[0], [1]], ["x", "y"])


def test_bad_labels_are_named() -> None:
    with pytest.raises(ValueError, match="row 0, step 1: exact label -100"):
        label_agreement([[1, -100]], [[1, 1]], [[1, 1]], ["x"])
    with pytest.raises(ValueError, match="row 1, step 0: 3 successes in 2 trials"):
        label_agreement([[1], [1]], [[1], [3]], [[2], [2]], ["x", "y"])
    with pytest.raises(ValueError, match="row 0 has 2 exact labels, 1 successes"):
        label_agreement([[1, 0]], [[1]], [[2, 2]], ["x"])
    with pytest.raises(ValueError, match="the same rows"):
        label_agreement([[1]], [[1]], [[1]], [])
