"""What an audit finds in a file, by hand-computed figures."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from indexed_rows import index, row
from qstep.evals.audit import audit_rows
from qstep.evals.contamination import shared_rows_of
from qstep.evals.measures import LabelShares, NamedRows, ResemblingRows, SharedRows, Spread, VerdictShares

NONE = ResemblingRows(problems=0, rows=0, lines=[], examples=[])


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
    assert (found.rows, found.problems, found.prompts) == (5, 4, 3), "a problem_id of its own makes a problem"
    assert found.labels == LabelShares(right=5, wrong=3, null=2, soft=2, right_share=5 / 8)
    assert found.responses == VerdictShares(right=1, wrong=0, unknown=4, right_share=1.0)
    assert (found.without_steps, found.without_labels) == (0, 1)
    assert found.rising == NamedRows(rows=2, lines=[2, 4])
    assert found.duplicates == NamedRows(rows=1, lines=[5])
    assert found.contradictions == NamedRows(rows=0, lines=[]), "null contradicts nothing"
    assert found.steps_per_response == Spread(mean=2.0, least=1, median=2, p90=3, p99=3, most=3)
    assert found.responses_per_problem.most == 2 and found.responses_per_problem.mean == 5 / 4
    assert found.characters["prompt"].most == 7, "characters, not bytes"
    assert found.characters["response"].most == 4


def test_the_verdicts_of_an_unpaired_file(tmp_path: Path) -> None:
    graded = [{"prompt": "p", "completion": "x", "label": label} for label in (True, None, False)]
    graded += [{"prompt": "q", "completion": "x", "label": True}] * 2
    found = audit_rows(index(tmp_path / "graded.jsonl", graded, "unpaired"))
    assert found.responses == VerdictShares(right=3, wrong=1, unknown=1, right_share=0.75)
    assert found.duplicates.lines == [2, 3, 5] and found.labels is None
    assert found.problems_with_two_rewards == 1, "q has the same reward twice"


def test_quantiles_are_values_that_are_there() -> None:
    assert Spread.of(np.arange(1, 101)) == Spread(mean=50.5, least=1, median=50, p90=90, p99=99, most=100)


def test_problems_are_shared_whatever_their_ids(tmp_path: Path) -> None:
    ours = index(tmp_path / "a.jsonl", [row("p", ["a"], [True]), row("q", ["a"], [True]), row("p", ["b"], [True])])
    theirs = index(tmp_path / "b.jsonl", [{**row("p", ["b"], [False]), "problem_id": "7"}, row("r", ["a"], [True])])
    assert shared_rows_of(ours, theirs) == SharedRows(
        problems=1, responses=1, rows=2, lines=[1, 3], near_copies=NONE, overlaps=NONE
    )
    asked = index(tmp_path / "c.jsonl", [{"prompt": "q", "completion": "a"}], "prompt-completion")
    assert shared_rows_of(ours, asked) == SharedRows(
        problems=1, responses=0, rows=1, lines=[2], near_copies=NONE, overlaps=NONE
    )
