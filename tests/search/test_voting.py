"""Votes: hand arithmetic, brute force over subsets, Monte-Carlo against exact, no answers, faults."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qstep.search import NO_ANSWER, answer_classes, vote, vote_accuracy


def brute_force(classes: list[int], correct: list[int], weights: list[int], n: int) -> float:
    """Every subset of size n votes in integer weights; tied classes share; no answer wins only alone."""
    mean = {c: np.mean([y for k, y in zip(classes, correct, strict=True) if k == c]) for c in classes}
    outcomes = []
    for subset in combinations(range(len(classes)), n):
        totals: dict[int, int] = {}
        for i in subset:
            if classes[i] != NO_ANSWER:
                totals[classes[i]] = totals.get(classes[i], 0) + weights[i]
        best = [c for c, total in totals.items() if total == max(totals.values())] or [NO_ANSWER]
        outcomes.append(np.mean([mean[c] for c in best]))
    return float(np.mean(outcomes))


@given(st.integers(1, 8), st.data())
def test_accuracy_is_the_mean_over_all_subsets(size: int, data: st.DataObject) -> None:
    def draw(low: int, high: int) -> list[int]:
        return data.draw(st.lists(st.integers(low, high), min_size=size, max_size=size))

    classes, correct, weights = draw(-1, 3), draw(0, 1), draw(1, 4)
    n = data.draw(st.integers(1, size))
    # A tenth of an integer is not exact in binary, so ties of sums are ties up to rounding.
    assert vote_accuracy(classes, correct, n, np.array(weights) / 10) == pytest.approx(
        brute_force(classes, correct, weights, n)
    )
    assert vote_accuracy(classes, correct, n) == pytest.approx(brute_force(classes, correct, [1] * size, n))


def test_accuracy_by_hand() -> None:
    """Right, right, wrong; n = 2: {a,b} right, {a,c} and {b,c} tied: (1 + 1/2 + 1/2) / 3 = 2/3; n = 3: right.

    Weights 1, 1, 3: c wins both its pairs and, 3 against 2, the vote of all: 1/3 and 0.
    """
    classes, correct = [0, 0, 1], [1, 1, 0]
    assert vote_accuracy(classes, correct, 2) == pytest.approx(2 / 3)
    assert vote_accuracy(classes, correct, 3) == 1
    assert vote_accuracy(classes, correct, 2, [1, 1, 3]) == pytest.approx(1 / 3)
    assert vote_accuracy(classes, correct, 3, [1, 1, 3]) == 0


def test_a_mixed_class_is_right_as_often_as_its_members() -> None:
    """Class 0 holds a right and a wrong response, so its win in the vote of all counts 1/2."""
    assert vote_accuracy([0, 0, 1], [1, 0, 0], 3) == 0.5


def test_no_answer_never_beats_an_answer() -> None:
    assert vote([None, None, None, "8"]) == "8"
    assert vote([None, None]) is None
    assert vote([]) is None
    assert vote_accuracy([NO_ANSWER, NO_ANSWER, NO_ANSWER, 0], [0, 0, 0, 1], 4) == 1
    assert vote_accuracy([NO_ANSWER, NO_ANSWER], [0, 0], 1) == 0
    # n = 2 of three: the pair without an answer loses, the two others are right.
    assert vote_accuracy([NO_ANSWER, NO_ANSWER, 0], [0, 0, 1], 2) == pytest.approx(2 / 3)


def test_vote_weighs_and_takes_the_first_of_the_tied() -> None:
    assert vote(["7", "8", "8"]) == "8"
    assert vote(["7", "8", "8"], [0.9, 0.3, 0.3]) == "7"
    assert vote(["8", "7", "7", "8"]) == "8"
    # 0.1 + 0.2 + 0.3 and 0.3 + 0.2 + 0.1 differ in the last digit and are tied all the same.
    weights = [0.3, 0.2, 0.1, 0.1, 0.2, 0.3]
    assert vote(["a", "a", "a", "b", "b", "b"], weights) == "a"
    assert vote_accuracy([0, 0, 0, 1, 1, 1], [1, 1, 1, 0, 0, 0], 6, weights) == 0.5


def test_weight_zero_counts_only_where_all_are_zero() -> None:
    assert vote(["a", "a", "b"], [0, 0, 1e-9]) == "b"
    assert vote([None, "a"], [1, 0]) == "a"
    assert vote_accuracy([0, 0, 1], [1, 1, 0], 3, [0, 0, 1e-9]) == 0
    # n = 1: the only voter wins whatever its weight, and an absent class with weight 0 does not tie with it.
    assert vote_accuracy([0, 0, 1], [1, 1, 0], 1, [0, 0, 0]) == pytest.approx(2 / 3)


def test_monte_carlo_is_seeded_and_near_the_exact_expectation() -> None:
    """20 of 10: C(20, 10) = 184,756 subsets exactly, against 4,096 drawn; standard error <= 0.5/64 =
    0.0078."""
    rng = np.random.default_rng(3)
    classes, weights = rng.integers(-1, 4, 20), rng.random(20)
    correct = (classes == 1).astype(int)
    exact = vote_accuracy(classes, correct, 10, weights, draws=184_756)
    assert 0.1 < exact < 0.9
    drawn = [vote_accuracy(classes, correct, 10, weights, draws=4096, seed=seed) for seed in range(5)]
    assert drawn[0] == vote_accuracy(classes, correct, 10, weights, draws=4096, seed=0)
    assert len(set(drawn)) > 1
    np.testing.assert_allclose(drawn, exact, atol=4 * 0.0078)
    assert np.mean(drawn) == pytest.approx(exact, abs=3 * 0.0078 / np.sqrt(5))


@pytest.mark.parametrize("n", [1, 64])
def test_one_and_all_are_exact_whatever_the_draws(n: int) -> None:
    rng = np.random.default_rng(4)
    classes = rng.integers(0, 5, 64)
    correct = (classes == 2).astype(int)
    expected = correct.mean() if n == 1 else float(vote(classes.tolist()) == 2)
    assert vote_accuracy(classes, correct, n, draws=1) == pytest.approx(expected)


def test_the_same_subsets_for_every_method() -> None:
    """Equal weights are the plain vote on the same subsets, so their paired difference is exactly 0."""
    rng = np.random.default_rng(5)
    classes = rng.integers(0, 6, 40)
    correct = (classes == 0).astype(int)
    plain = vote_accuracy(classes, correct, 9, draws=100)
    assert vote_accuracy(classes, correct, 9, np.full(40, 0.25), draws=100) == plain
    shuffled_names = np.array([3, 5, 0, 1, 2, 4])[classes]
    assert vote_accuracy(shuffled_names, correct, 9, draws=100) == pytest.approx(plain)


def test_answers_become_classes() -> None:
    assert answer_classes(["8", None, "7", "8"]).tolist() == [0, NO_ANSWER, 1, 0]


def test_bad_votes_are_refused() -> None:
    with pytest.raises(ValueError, match="weight 1 is -1"):
        vote(["a", "b"], [1, -1])
    with pytest.raises(ValueError, match="weight 0 is nan"):
        vote_accuracy([0, 1], [0, 1], 1, [np.nan, 1])
    with pytest.raises(ValueError, match="2 answers need 2 weights"):
        vote(["a", "b"], [1])
    with pytest.raises(ValueError, match="one length"):
        vote_accuracy([0, 1], [1], 1)
    for n in (0, 3):
        with pytest.raises(ValueError, match="N = 2 samples"):
            vote_accuracy([0, 1], [0, 1], n)
    with pytest.raises(ValueError, match="draws"):
        vote_accuracy([0, 1], [0, 1], 1, draws=0)
