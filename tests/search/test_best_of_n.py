"""Best-of-n: hand arithmetic, brute force over subsets and orders, large N, faults."""

from __future__ import annotations

from fractions import Fraction
from itertools import combinations, permutations
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit

from qstep.scoring.aggregation import aggregate
from qstep.search import best_of_n_accuracy, best_of_n_index, choice_probabilities

few_scores = st.lists(st.sampled_from([-np.inf, -1.0, 0.0, 0.5, 2.0]), min_size=1, max_size=6)
steps = st.lists(st.floats(-20, 20), min_size=1, max_size=6)


def brute_force(scores: list[float], correct: list[int], n: int) -> float:
    """The mean over all subsets, and over the orders in which a subset is read, of the first best one."""
    outcomes = []
    for subset in combinations(range(len(scores)), n):
        for order in permutations(subset):
            outcomes.append(correct[max(order, key=lambda i: scores[i])])
    return float(np.mean(outcomes))


@given(few_scores, st.data())
def test_accuracy_is_the_mean_over_all_subsets_and_orders(scores: list[float], data: st.DataObject) -> None:
    size = len(scores)
    correct = data.draw(st.lists(st.integers(0, 1), min_size=size, max_size=size))
    n = data.draw(st.integers(1, size))
    assert best_of_n_accuracy(scores, correct, n) == pytest.approx(brute_force(scores, correct, n), abs=1e-12)


def test_accuracy_by_hand() -> None:
    """N = 4, n = 2, best first: correct 0, 1, 0, 1. C(4,2) = 6; the i-th best wins C(4-i, 1) = 3, 2, 1, 0 of
    them.

    So (0*3 + 1*2 + 0*1 + 1*0) / 6 = 1/3.
    """
    assert best_of_n_accuracy([9.0, 7.0, 5.0, 3.0], [0, 1, 0, 1], 2) == pytest.approx(1 / 3)


def test_tied_samples_share_by_hand() -> None:
    """Scores 2, 1, 1: of the pairs {a,b}, {a,c}, {b,c} a wins two and b, c share the third: 2/3, 1/6, 1/6."""
    np.testing.assert_allclose(choice_probabilities([2.0, 1.0, 1.0], 2), [2 / 3, 1 / 6, 1 / 6])


def test_best_of_one_is_the_mean_and_best_of_all_is_the_best() -> None:
    scores, correct = [0.3, 0.9, 0.1, 0.5], [1, 0, 1, 1]
    assert best_of_n_accuracy(scores, correct, 1) == pytest.approx(0.75)
    assert best_of_n_accuracy(scores, correct, 4) == correct[best_of_n_index(scores)] == 0


@pytest.mark.parametrize("n", [1, 2, 37, 2048, 4095, 4096])
def test_large_groups_agree_with_exact_integers(n: int) -> None:
    """N = 4096, where C(N, n) has over 1,200 digits: within 1e-11 of the rational arithmetic."""
    size = 4096
    got = choice_probabilities(-np.arange(size, dtype=float), n)
    assert got.sum() == pytest.approx(1, abs=1e-11)
    for i in (1, 2, 10, 100, 2000, 4096):
        exact = float(Fraction(comb(size - i, n - 1), comb(size, n)))
        assert got[i - 1] == pytest.approx(exact, rel=1e-11, abs=1e-300)


def test_groups_are_judged_alone_and_in_any_order() -> None:
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 5, size=(7, 12)).astype(float)
    scores[2, 3] = -np.inf
    together = choice_probabilities(scores, 5)
    for row, alone in zip(scores, together, strict=True):
        np.testing.assert_array_equal(choice_probabilities(row, 5), alone)
        shuffle = rng.permutation(12)
        np.testing.assert_allclose(choice_probabilities(row[shuffle], 5), alone[shuffle])


def test_bad_scores_and_counts_are_refused() -> None:
    with pytest.raises(ValueError, match="index 2 is NaN"):
        best_of_n_accuracy([0.0, 1.0, np.nan], [0, 1, 1], 2)
    with pytest.raises(ValueError, match="index 1, 0 is NaN"):
        choice_probabilities([[0.0, 1.0], [np.nan, 1.0]], 2)
    with pytest.raises(ValueError, match="index 0 is NaN"):
        best_of_n_index([np.nan, 3.0])
    with pytest.raises(ValueError, match="non-empty"):
        best_of_n_index([])
    for n in (0, 3):
        with pytest.raises(ValueError, match="N = 2 samples"):
            choice_probabilities([0.0, 1.0], n)
    with pytest.raises(ValueError, match="one length"):
        best_of_n_accuracy([0.0, 1.0], [1], 1)


def test_best_index_is_the_first_of_the_tied() -> None:
    assert best_of_n_index([1.0, 4.0, 4.0, -np.inf]) == 1


def test_aggregations_by_hand() -> None:
    """Steps 0 and ln 3: sigmoids 1/2 and 3/4, product 3/8, whose logit is ln((3/8) / (5/8)) = ln(3/5)."""
    q_values = [float(np.log(3)), 0.0]
    assert aggregate(q_values, "min") == 0
    assert aggregate(q_values, "last") == 0
    assert aggregate(q_values, "mean") == pytest.approx(np.log(3) / 2)
    assert aggregate(q_values, "product") == pytest.approx(np.log(3 / 5))


@given(steps)
def test_product_is_the_logit_of_the_product_of_sigmoids(q_values: list[float]) -> None:
    assert expit(aggregate(q_values, "product")) == pytest.approx(np.prod(expit(q_values)), rel=1e-9)


@given(st.floats(-1e4, 1e4))
def test_one_step_scores_the_same_under_every_aggregation(q_value: float) -> None:
    for how in ("min", "last", "mean", "product"):
        assert aggregate([q_value], how) == pytest.approx(q_value)


def test_product_stays_finite_and_ordered_where_the_product_rounds() -> None:
    """Two steps of Q: -2Q for a hopeless Q (the odds multiply), Q - ln 2 for a sure one (the doubts add)."""
    assert aggregate([-1e4, -1e4], "product") == pytest.approx(-2e4)
    assert aggregate([1e4, 1e4], "product") == pytest.approx(1e4 - np.log(2))


@pytest.mark.parametrize("how", ["min", "last", "mean", "product"])
def test_a_response_without_a_step_loses(how: str) -> None:
    none = aggregate([], how)
    assert best_of_n_index([none, aggregate([-1e4] * 50, how)]) == 1
    assert expit(none) == 0


def test_bad_step_scores_are_refused() -> None:
    with pytest.raises(ValueError, match="step 1 is nan"):
        aggregate([0.0, float("nan")], "min")
    with pytest.raises(ValueError, match="step 0 is inf"):
        aggregate([float("inf")], "product")
    with pytest.raises(ValueError, match="unknown aggregation 'max'"):
        aggregate([0.0], "max")
    with pytest.raises(ValueError, match="one list"):
        aggregate([[0.0], [1.0]], "min")
