"""Doubtful rows of a file, by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from indexed_rows import index, row
from qstep.data import (
    contradicting_rows,
    repeated_rows,
    rising_rows,
)


@pytest.mark.parametrize(
    ("labels", "threshold", "rises"),
    [
        ([True, False, None, True], 0.0, True),
        ([True, True, False, False], 0.0, False),
        ([None, False, None], 0.0, False),
        ([0.5, 0.25, 0.75], 0.0, False),
        ([0.5, 0.25, 0.75], 0.25, True),
        ([0.9, 0.8, 0.1, 0.2], 0.5, False),  # rises, and not above the threshold
    ],
)
def test_labels_rise_after_a_wrong_step(tmp_path: Path, labels: Any, threshold: float, rises: bool) -> None:
    of = index(tmp_path / "rows.jsonl", [row("p", [f"s{i}" for i in range(len(labels))], labels)])
    assert len(rising_rows(of, threshold)) == rises


def test_contradictions_are_of_hard_labels_and_of_one_response(tmp_path: Path) -> None:
    steps = ["a", "b"]
    rows = [row("p", steps, [True, True]), row("p", steps, [True, False]), row("p", steps, [None, False])]
    rows += [row("q", steps, [True, False]), row("q", ["ab"], [True]), row("r", steps, [0.0, 0.5])]
    rows += [row("r", steps, [0.5, 0.5])]
    assert contradicting_rows(index(tmp_path / "rows.jsonl", rows)).tolist() == [0, 1, 2]
    graded = [{"prompt": "p", "completion": "x", "label": label} for label in (True, None, False)]
    graded += [{"prompt": "q", "completion": "x", "label": True}] * 2
    of = index(tmp_path / "graded.jsonl", graded, "unpaired")
    assert contradicting_rows(of).tolist() == [0, 2]
    assert repeated_rows(of).tolist() == [1, 2, 4]
