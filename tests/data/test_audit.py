"""What an audit finds in a file, by hand-computed figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from qstep.data import (
    Format,
    Index,
    audit_rows,
    contradicting_rows,
    index_rows,
    quantiles,
    rising_rows,
    shared_rows_of,
    write_jsonl,
)


def row(prompt: str, steps: list[str], labels: Any) -> dict[str, Any]:
    return {"prompt": prompt, "completions": steps, "labels": labels}


def index(path: Path, rows: list[dict[str, Any]], format: Format = "stepwise") -> Index:
    write_jsonl(path, rows)
    return index_rows(path, format)


def test_every_figure_of_a_stepwise_file(tmp_path: Path) -> None:
    """Steps: 2, 3, 1, 2, 2. Labels above 0: 1 + 2 + 0 + 1 + 1; of 0: 1 + 1 + 0 + 1 + 0; null: 1 and 1."""
    rows = [
        row("größer?", ["aa", "b"], [True, False]),
        row("größer?", ["aa", "b", "c"], [True, False, True]),
        row("p", ["x"], [None]),
        row("q", ["u", "v"], [0.0, 0.25]),
        {**row("größer?", ["aa", "b"], [True, None]), "problem_id": "other", "label": True},
    ]
    found = audit_rows(index(tmp_path / "rows.jsonl", rows))
    assert found["rows"] == 5 and found["problems"] == 3
    assert found["labels"] == {"right": 5, "wrong": 3, "null": 2, "soft": 2, "right_share": 5 / 8}
    assert found["responses"] == {"right": 1, "wrong": 0, "unknown": 4, "right_share": 1.0}
    assert (found["without_steps"], found["without_labels"]) == (0, 1)
    assert found["rising"] == {"rows": 2, "lines": [2, 4]}
    assert found["duplicates"] == {"rows": 1, "lines": [5]}
    assert found["contradictions"] == {"rows": 0, "lines": []}, "null contradicts nothing"
    steps = found["steps_per_response"]
    assert steps == {"mean": 2.0, "least": 1, "median": 2, "p90": 3, "p99": 3, "most": 3}
    assert found["responses_per_problem"]["most"] == 3 and found["responses_per_problem"]["mean"] == 5 / 3
    assert found["characters"]["prompt"]["most"] == 7, "characters, not bytes"
    assert found["characters"]["response"]["most"] == 4


def test_quantiles_are_values_that_are_there() -> None:
    import numpy as np

    assert quantiles(np.arange(1, 101)) == {"mean": 50.5, "least": 1, "median": 50, "p90": 90, "p99": 99, "most": 100}


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
    assert audit_rows(of)["responses"] == {"right": 3, "wrong": 1, "unknown": 1, "right_share": 0.75}
    assert audit_rows(of)["duplicates"]["lines"] == [2, 3, 5]


def test_problems_are_shared_whatever_their_ids(tmp_path: Path) -> None:
    ours = index(tmp_path / "a.jsonl", [row("p", ["a"], [True]), row("q", ["a"], [True]), row("p", ["b"], [True])])
    theirs = index(tmp_path / "b.jsonl", [{**row("p", ["b"], [False]), "problem_id": "7"}, row("r", ["a"], [True])])
    assert shared_rows_of(ours, theirs) == {"problems": 1, "responses": 1, "rows": 2, "lines": [1, 3]}
    asked = index(tmp_path / "c.jsonl", [{"prompt": "q", "completion": "a"}], "prompt-completion")
    assert shared_rows_of(ours, asked) == {"problems": 1, "responses": 0, "rows": 1, "lines": [2]}
