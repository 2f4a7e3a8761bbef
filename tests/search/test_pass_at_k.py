"""pass@k against hand arithmetic, exact integers, and best-of-n with a perfect verifier."""

from __future__ import annotations

from fractions import Fraction
from math import comb

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qstep.search import best_of_n_accuracy, pass_at_k


def test_by_hand() -> None:
    """5 samples, 2 right, k = 3: 1 - C(3,3)/C(5,3) = 1 - 1/10. With k = 4 there are not 4 wrong ones to
    draw."""
    assert pass_at_k(5, 2, 3) == pytest.approx(0.9)
    assert pass_at_k(5, 2, 4) == 1
    assert pass_at_k(5, 0, 5) == 0


@given(st.integers(1, 300), st.data())
def test_equals_exact_integers_and_a_perfect_verifier(n_samples: int, data: st.DataObject) -> None:
    n_correct, k = data.draw(st.integers(0, n_samples)), data.draw(st.integers(1, n_samples))
    exact = float(1 - Fraction(comb(n_samples - n_correct, k), comb(n_samples, k)))
    correct = [1] * n_correct + [0] * (n_samples - n_correct)
    assert pass_at_k(n_samples, n_correct, k) == pytest.approx(exact, abs=1e-12)
    assert best_of_n_accuracy(correct, correct, k) == pytest.approx(exact, abs=1e-12)


def test_bad_counts_are_refused() -> None:
    for n_correct in (-1, 6):
        with pytest.raises(ValueError, match=r"within 0\.\.5"):
            pass_at_k(5, n_correct, 1)
    for k in (0, 6):
        with pytest.raises(ValueError, match="n_samples is 5"):
            pass_at_k(5, 2, k)
