"""Areas under the ROC: brute force over pairs, hand-computed pairs at equal positions, a scorer that reads nothing."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qstep.evals import (
    LabelledSteps,
    auc,
    auc_estimate,
    equal_position_auc,
    equal_position_within_problem_auc,
    mean_estimate,
    step_auroc,
    within_problem_auc,
)
from qstep.evals.measures import Measured


@given(st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=1, max_size=12))
def test_auc_is_the_share_of_pairs_in_order(items: list[tuple[int, bool]]) -> None:
    right, wrong = [s for s, c in items if c], [s for s, c in items if not c]
    area = auc([s for s, _ in items], [c for _, c in items])
    if not right or not wrong:
        assert area is None
    else:
        pairs = [(r > w) + 0.5 * (r == w) for r in right for w in wrong]
        assert area == pytest.approx(np.mean(pairs))


def test_within_problem_auc_sees_what_the_global_one_hides() -> None:
    """Scores tell the easy problem (right, right, wrong at 9) from the hard one (wrong, wrong, right at 1)
    only.

    Within each the AUC is 1/2; over all, of the 3 x 3 pairs 4 (easy right, hard wrong) are in order, 1 (hard
    right, easy wrong) is not and 4 tie: 6/9. The third problem has one class, and no part.
    """
    scores, correct, problems = [9, 1, 9, 1, 9, 1, 5], [1, 0, 1, 0, 0, 1, 1], ["a", "b", "a", "b", "a", "b", "c"]
    assert within_problem_auc(scores, correct, problems) == Measured.of(mean_estimate([0.5, 0.5]))
    assert auc(scores[:6], correct[:6]) == pytest.approx(6 / 9)
    assert within_problem_auc([1, 2], [1, 1], ["a", "a"]) is None


def test_bad_auc_items_are_refused() -> None:
    with pytest.raises(ValueError, match="without a label"):
        auc([1.0, 2.0], [1, -100])
    with pytest.raises(ValueError, match="score 0 is NaN"):
        auc([np.nan, 2.0], [1, 0])
    for estimate in (within_problem_auc, auc_estimate):
        with pytest.raises(ValueError, match=r"scores \(2,\) and correct \(1,\)"):
            estimate([1.0, 2.0], [1], ["a", "a"])
        with pytest.raises(ValueError, match="2 items and 1 problems"):
            estimate([1.0, 2.0], [1, 0], ["a"])


def test_only_steps_at_equal_positions_are_compared() -> None:
    """Problem a has the responses [2 right, 0 right], [1 right, 1 wrong], [.5 wrong]; b has [3 right], [2.5 wrong].

    In a the pairs are 2 > .5 and 1 > .5 at index 0 and 0 < 1 at index 1: 2 of 3. In b 3 > 2.5: the mean is 5/6. Over
    all problems, index 0 has the right 2, 1, 3 against the wrong .5 (3 in order) and 2.5 (1): 4 of 6, and index 1 has
    0 of 1: 4/7.
    """
    scores, correct, positions = [2, 0, 1, 1, 0.5, 3, 2.5], [1, 1, 1, 0, 0, 1, 0], [0, 1, 0, 1, 0, 0, 0]
    problems = ["a"] * 5 + ["b"] * 2
    within = equal_position_within_problem_auc(scores, correct, positions, problems)
    assert within == Measured.of(mean_estimate([2 / 3, 1]))
    over_all = equal_position_auc(scores, correct, positions, problems)
    assert over_all is not None and over_all.mean == pytest.approx(4 / 7) and over_all.n == 2
    assert equal_position_auc([1, 2], [1, 0], [0, 1], ["a", "a"]) is None
    assert equal_position_within_problem_auc([1, 2], [1, 0], [0, 0], ["a", "b"]) is None


def labelled(problems: int, responses: int, q_value: Any) -> LabelledSteps:
    """Responses of 1 to 6 steps, most with a wrong one; `q_value` makes a Q of a step's index and label."""
    rng = np.random.default_rng(0)
    steps = LabelledSteps()
    for problem in range(problems):
        for _ in range(responses):
            length, wrong = int(rng.integers(1, 7)), int(rng.integers(0, 8))
            labels = [index != wrong for index in range(length)]
            steps.add(problem, [q_value(index, label) for index, label in enumerate(labels)], labels)
    return steps


@pytest.mark.parametrize("slope", [-1, 1])
@pytest.mark.parametrize("responses", [1, 6])
def test_a_scorer_that_reads_nothing_is_at_chance_at_equal_positions(slope: int, responses: int) -> None:
    """Whatever it makes of the index. Within a response the same scorer is perfect, or always wrong."""
    steps = labelled(40, responses, lambda index, label: slope * float(index))
    made = step_auroc(steps)
    assert made["step_at_equal_position"].mean == 0.5
    if responses > 1:
        assert made["step_at_equal_position_within_problem"].mean == 0.5
        assert (made["position_within_problem"].mean > 0.55) and (slope > 0 or made["step"] == made["position"])
    else:
        within = within_problem_auc(steps.q_values, steps.right, steps.problems)
        assert within is not None and within.mean == (1 if slope < 0 else 0)


def test_within_a_problem_of_one_response_no_number_is_given() -> None:
    """The scorer that reads nothing would be perfect. Most problems decide: 2 of 5 with several are too few."""
    names = {"step_within_problem", "position_within_problem", "step_at_equal_position_within_problem"}
    alone = labelled(40, 1, lambda index, label: -float(index))
    assert {name: step_auroc(alone)[name] for name in names} == dict.fromkeys(names)
    few = LabelledSteps()
    for problem, responses in zip("abcde", (1, 1, 1, 2, 2), strict=True):
        for _ in range(responses):
            few.add(problem, [1.0, 0.0], [True, False])
    assert step_auroc(few)["step_within_problem"] is None
    few.add("c", [1.0, 0.0], [True, False])
    assert step_auroc(few)["step_within_problem"].mean == 1


def test_a_scorer_that_reads_is_seen_at_equal_positions() -> None:
    made = step_auroc(labelled(40, 6, lambda index, label: float(label)))
    assert made["step_at_equal_position"].mean == made["step_at_equal_position_within_problem"].mean == 1


def test_the_interval_at_equal_positions_is_that_of_a_bootstrap_over_problems() -> None:
    """Each resample worked out from its pairs; the two intervals differ by less than a fifth of their width."""
    rng = np.random.default_rng(1)
    steps = labelled(60, 1, lambda index, label: label + 1.5 * rng.normal())
    found = step_auroc(steps)["step_at_equal_position"]
    score, right, place = map(np.asarray, (steps.q_values, steps.right, steps.positions))
    of_problem = [np.flatnonzero(np.asarray(steps.problems) == problem) for problem in range(60)]

    def resampled() -> Iterator[float]:
        for _ in range(400):
            items = np.concatenate([of_problem[i] for i in rng.integers(0, 60, 60)])
            pairs = [(i, j) for i, j in combinations(items, 2) if place[i] == place[j] and right[i] != right[j]]
            yield float(np.mean([(score[i] > score[j]) == right[i] for i, j in pairs]))

    low, high = np.percentile(list(resampled()), (2.5, 97.5))
    assert found.low == pytest.approx(low, abs=0.2 * (high - low))
    assert found.high == pytest.approx(high, abs=0.2 * (high - low))


def test_an_unlabelled_step_keeps_its_position() -> None:
    """What follows the first wrong step has no part, and a step without a label leaves a gap."""
    steps = LabelledSteps()
    steps.add("a", [1.0, 2.0, 3.0, 4.0], [True, None, False, True])
    assert (steps.q_values, steps.right, steps.positions) == ([1.0, 3.0], [True, False], [0, 2])
