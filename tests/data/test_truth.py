"""Labels 1 and 0: true and false where a whole column has nothing else, in files, in memory and to train on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import pytest

import qstep
from qstep.data import RowError, index_rows, read_responses, scanning, write_jsonl

STEPS = ["1+1=2", "#2"]


def stepwise(*labels: list[Any]) -> list[dict[str, Any]]:
    return [{"prompt": f"{n}?", "completions": STEPS, "labels": values} for n, values in enumerate(labels)]


def test_a_column_of_ones_and_zeros_is_true_and_false(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    write_jsonl(path, stepwise([1, 0], [None, 1], [1, 1]))
    index = index_rows(path, "stepwise")
    assert [index.row(n)["labels"] for n in range(3)] == [[True, False], [None, True], [True, True]]
    assert (index.table["soft"] == 0).all() and index.table["above"].tolist() == [1, 1, 2]
    graded = [{"prompt": "1?", "completion": "2", "gold": "2", "label": label} for label in (1, 0, None)]
    write_jsonl(path, graded)
    assert [row["label"] for row in read_responses(path)] == [True, False, None]
    assert index_rows(path, "unpaired").table["right"].tolist() == [1, 0, -1]
    for table in (graded, datasets.Dataset.from_list(graded)):
        assert [row["label"] for row in qstep.grade(table)] == [True, True, True]


@pytest.mark.parametrize(
    ("labels", "line", "words"),
    [
        (([1, 0], [0.5, 1.0]), 2, "has numbers with a decimal point, and there are integers on line 1"),
        (([0.5, 1.0], [None, 0.0], [1, 1]), 3, "has integers, and there are numbers with a decimal point on line 1"),
        (([1, 1], [True, None]), 2, "has truth values, and there are integers on line 1"),
        (([1, 1], [2, 0]), 2, r"is \[2, 0\]; give true or false"),
        (([1, 0.5],), 1, r"is \[1, 0.5\]; give true or false"),
    ],
)
def test_ones_among_other_values_are_refused(
    labels: tuple[list[Any], ...], line: int, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "rows.jsonl"
    write_jsonl(path, stepwise(*labels))
    for workers in (1, 3):
        monkeypatch.setattr(scanning, "_BYTES_A_PROCESS", path.stat().st_size // workers)
        monkeypatch.setattr(scanning, "cores", lambda workers=workers: workers)
        with pytest.raises(RowError, match=words) as error:
            index_rows(path, "stepwise")
        assert (error.value.line, error.value.field) == (line, "labels")


def test_a_file_of_responses_is_refused_at_the_row(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    write_jsonl(path, [{"prompt": "1?", "completion": "2", "label": label} for label in (1, None, False)])
    with pytest.raises(RowError, match=r"line 3, field 'label': has truth values, and there are integers on line 1"):
        list(read_responses(path))
    with pytest.raises(
        ValueError, match=r"rows\[1\], column 'label': has integers, and there are truth values in rows\[0\]"
    ):
        qstep.grade([{"prompt": "1?", "completion": "2", "gold": "2", "label": label} for label in (True, 1)])
