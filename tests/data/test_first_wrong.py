"""The first wrong step of a response."""

import pytest

from qstep.data import NO_ERROR, first_wrong, labels_until


@pytest.mark.parametrize(
    ("labels", "threshold", "first"),
    [
        ([True, None, False, True], 0, 2),
        ([True, True], 0, NO_ERROR),
        ([], 0, NO_ERROR),
        ([None, None], 1, NO_ERROR),
        ([0.5, 0.0], 0, 1),
        ([0.75, 0.5, 0.0], 0.5, 1),
        ([1.0, 0.25], 0.2, NO_ERROR),
    ],
)
def test_the_first_wrong_step_is_the_first_label_at_most_the_threshold(
    labels: list[float | None], threshold: float, first: int
) -> None:
    assert first_wrong(labels, threshold) == first


@pytest.mark.parametrize(("first", "steps"), [(NO_ERROR, 3), (0, 3), (2, 3)])
def test_labels_made_from_a_first_wrong_step_have_it(first: int, steps: int) -> None:
    labels = labels_until(first, steps)
    assert len(labels) == steps and first_wrong(labels) == first
