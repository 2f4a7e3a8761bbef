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
    two_golds,
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


def test_parts_of_one_response_have_their_own_labels(tmp_path: Path) -> None:
    """Thinking of two steps and an answer of one; the answer's rows contradict each other."""
    whole = {"prompt": "p", "completion": "<think>\na\nb\n</think>\nc"}
    thinking = {**whole, "completions": ["a", "b"], "step_separator": "split:thinking:line"}
    answer = {**whole, "completions": ["c"], "step_separator": "split:answer:line"}
    rows = [{**thinking, "labels": [True, False]}, {**answer, "labels": [True]}, {**answer, "labels": [False]}]
    assert contradicting_rows(index(tmp_path / "rows.jsonl", rows)).tolist() == [1, 2]
    rows = [row("p", ["a"], [True]), {**row("p", ["a"], [False]), "step_separator": "\n"}]
    assert contradicting_rows(index(tmp_path / "rows.jsonl", rows)).tolist() == [0, 1], "the steps are the same"


@pytest.mark.parametrize(
    ("verdicts", "contradict"),
    [
        ([{"reward": 1.0}, {"reward": 0.0}], True),
        ([{"reward": 0.25}, {"reward": 0.75}], True),  # both are wrong, and one of them is half wrong
        ([{"reward": 1.0}, {"label": True}], False),
        ([{"label": True, "reward": 0.5}, {"label": False, "reward": 0.5}], True),
        ([{"reward": 0.5}, {"reward": None}, {"label": None}], False),
    ],
)
def test_one_completion_has_one_reward(tmp_path: Path, verdicts: list[Any], contradict: bool) -> None:
    rows = [{"prompt": "p", "completion": "x", **verdict} for verdict in verdicts]
    found = contradicting_rows(index(tmp_path / "rows.jsonl", rows, "unpaired"))
    assert found.tolist() == ([0, 1] if contradict else [])


def test_verdicts_on_the_same_steps_contradict(tmp_path: Path) -> None:
    """`train orm` learns from them."""
    rows = [{**row("p", ["a"], [None]), "label": right} for right in (True, False)]
    assert contradicting_rows(index(tmp_path / "rows.jsonl", rows)).tolist() == [0, 1]


def test_two_gold_answers_of_one_problem(tmp_path: Path) -> None:
    """Row 1 has none, and row 4 has that of row 0; row 5 is the first other one of its prompt. A prompt with two ids is
    two problems, as `qstep.data.golds` says."""
    golds = [("p", "4"), ("p", None), ("q", "4"), ("p", "5"), ("p", "4"), ("q", "6"), ("q", "4.0"), ("p", "5")]
    rows = [{**row(prompt, ["a"], [True]), **({"gold": gold} if gold else {})} for prompt, gold in golds]
    of = index(tmp_path / "rows.jsonl", [{**row, "problem_id": row["prompt"]} for row in rows])
    assert two_golds(of, lambda a, b: False) == [(0, 3), (2, 5), (2, 6)]
    named = [{**row, "problem_id": str(number)} for number, row in enumerate(rows)]
    assert two_golds(index(tmp_path / "named.jsonl", named), lambda a, b: False) == [], "each is a problem of its own"
    assert two_golds(of, lambda a, b: float(a["gold"]) == float(b["gold"])) == [(0, 3), (2, 5)]
