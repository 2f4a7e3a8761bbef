"""Blank steps are left out and the first wrong step is counted down; Mr-Ben and StepVerify as published."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from published_rows import MISTAKE, PROCESSBENCH, read
from raw_rows import write
from real_data import DATA, needs

MRBEN: dict[str, Any] = {
    "Question_UUID": "u1",
    "Subject": "college_physics",
    "Question": "How fast?",
    "Options": "A: 1 \nB: 2 ",
    "Ground_Truth_Answer": "B",
    "Sampled_Model": "Claude2",
    "Model_Solution_Steps": ["Let us see.", "", "Step 1: It is 1.", " ", "Step 2: So A.", "Solution: A"],
    "Model_Solution_Correctness": "incorrect",
    "Model_Solution_First_Error_Step": "2",
}


@pytest.mark.parametrize(
    ("steps", "label", "first", "labels"),
    [
        (["", "a", "b"], 1, 0, [False, None]),
        (["a", " ", "b", "c"], 2, 1, [True, False, None]),
        (["a", "b", "", "c"], 1, 1, [True, False, None]),
        (["a", "", "b"], -1, -1, [True, True]),
    ],
)
def test_an_index_over_blank_steps_is_counted_down(
    steps: list[str], label: int, first: int, labels: list[bool | None], tmp_path: Path
) -> None:
    (row,), found = read(write(tmp_path / "p.jsonl", {**PROCESSBENCH, "steps": steps, "label": label}))
    assert (row["first_error"], row["labels"]) == (first, labels)
    assert row["completions"] == [step for step in steps if step.strip()] and found["parts_not_used"] == {
        "a blank step": 1
    }
    index = None if label < 0 else label
    (other,), _ = read(write(tmp_path / "m.jsonl", {**MISTAKE, "steps": steps, "mistake_index": index}))
    assert (other["first_error"], other["labels"]) == (first, labels)


def test_a_wrong_step_that_is_blank_leaves_the_row_out(tmp_path: Path) -> None:
    rows, found = read(write(tmp_path / "p.jsonl", {**PROCESSBENCH, "steps": ["a", "", "b"], "label": 1}))
    assert not rows and found["rows_not_used"] == {"the first wrong step is blank": 1}


@pytest.mark.parametrize(
    ("changed", "first"),
    [
        ({}, 2),
        ({"Model_Solution_First_Error_Step": "N/A", "Model_Solution_Correctness": "correct"}, -1),
        ({"Model_Solution_Steps": ["a", "", "b"]}, 1),
        ({"Model_Solution_First_Error_Step": 1}, 1),
    ],
)
def test_mrben_names_the_step_by_its_own_number(changed: dict[str, Any], first: int, tmp_path: Path) -> None:
    (row,), _ = read(write(tmp_path / "mrben.jsonl", {**MRBEN, **changed}))
    assert row["first_error"] == first and row["prompt"] == "How fast?\nA: 1 \nB: 2"
    assert (row["gold"], row["generator"], row["subset"]) == ("B", "Claude2", "college_physics")


def test_mrben_without_the_step_and_with_a_bad_one(tmp_path: Path) -> None:
    rows, found = read(write(tmp_path / "mrben.jsonl", {**MRBEN, "Model_Solution_First_Error_Step": "9"}))
    assert not rows and found["rows_not_used"] == {"no step has the number of the first wrong one": 1}
    with pytest.raises(ValueError, match=r"First_Error_Step.*is 'two'; it must be the number of a step"):
        read(write(tmp_path / "bad.jsonl", {**MRBEN, "Model_Solution_First_Error_Step": "two"}))


MR_GSM8K: dict[str, Any] = {
    "uuid": "f25b796f",
    "question": "How many?",
    "ground_truth_solution": "6 x 3 = 18",
    "ground_truth_answer": 18,
    "model_output_steps": ["Step 1: 6 x 2 = 12.", "", "Step 2: 12 + 6 = 17.", "Step 3: #### 17"],
    "model_output_answer_correctness": "wrong",
    "model_output_solution_correctness": "wrong",
    "model_output_solution_first_error_step": "2",
    "model_output_solution_first_error_reason": "12 + 6 = 18",
    "question_type": "reversed",
}
RIGHT = {"model_output_solution_correctness": "correct", "model_output_solution_first_error_step": "N/A"}


def test_mr_gsm8k(tmp_path: Path) -> None:
    as_number = {"model_output_solution_first_error_step": 2, "ground_truth_answer": "18"}
    rows, found = read(write(tmp_path / "mr.jsonl", MR_GSM8K, {**MR_GSM8K, **as_number}, {**MR_GSM8K, **RIGHT}))
    assert [row["labels"] for row in rows] == [[True, False, None]] * 2 + [[True] * 3]
    assert [row["first_error"] for row in rows] == [1, 1, -1] and {row["gold"] for row in rows} == {"18"}
    assert (rows[0]["subset"], rows[0]["final_answer_correct"], rows[0]["prompt"]) == ("reversed", False, "How many?")
    assert found["parts_not_used"] == {"a blank step": 3}


def test_a_verdict_that_contradicts_the_marked_step_leaves_the_row_out(tmp_path: Path) -> None:
    unmarked = {**MR_GSM8K, "model_output_solution_first_error_step": "N/A"}
    right = {**MR_GSM8K, "model_output_solution_correctness": "correct"}
    rows, found = read(write(tmp_path / "mr.jsonl", unmarked, right))
    reasons = {"wrong, but no step is marked as wrong": 1, "right, but a step is marked as wrong": 1}
    assert not rows and found["rows_not_used"] == reasons
    rows, found = read(write(tmp_path / "mrben.jsonl", {**MRBEN, "Model_Solution_First_Error_Step": "N/A"}))
    assert not rows and found["rows_not_used"] == {"wrong, but no step is marked as wrong": 1}
    with pytest.raises(ValueError, match=r'solution_correctness.*must be "correct", "incorrect" or "wrong"'):
        read(write(tmp_path / "bad.jsonl", {**MR_GSM8K, "model_output_solution_correctness": "half"}))


def test_an_object_of_lists_is_read(tmp_path: Path) -> None:
    file = tmp_path / "mrben.json"
    file.write_text(json.dumps({"u1": [MRBEN], "u2": [MRBEN, MRBEN]}, indent=2))
    rows, _ = read(file)
    assert [row["id"] for row in rows] == ["mrben/0", "mrben/1", "mrben/2"]
    file.write_text(json.dumps({"u1": MRBEN}, indent=2))
    with pytest.raises(ValueError, match="neither a list of objects nor an object of such lists"):
        read(file)


@needs("mrben_physics.json")
def test_the_published_mrben() -> None:
    """445 of 667 rows have blank steps, and none is lost. The marked step is the one whose correction names it."""
    rows, found = read(DATA / "mrben_physics.json")
    assert len(rows) == 667 and sum(row["first_error"] < 0 for row in rows) == 319
    assert found["parts_not_used"]["a blank step"] > 445
    raw = [row for held in json.loads((DATA / "mrben_physics.json").read_text()).values() for row in held]
    numbered = [
        (row, named)
        for row, given in zip(rows, raw, strict=True)
        if row["first_error"] >= 0
        for named in re.findall(r"^Step (\d+)", str(given["Model_Solution_Rectified_First_Error_Step"][0]))
        if re.match(r"Step \d+", row["completions"][row["first_error"]])
    ]
    assert len(numbered) > 200
    same = [row["completions"][row["first_error"]].startswith(f"Step {named}") for row, named in numbered]
    assert sum(same) >= len(same) - 2


@needs("stepverify.jsonl")
def test_the_published_stepverify() -> None:
    rows, _ = read(DATA / "stepverify.jsonl")
    raw = [json.loads(line) for line in (DATA / "stepverify.jsonl").open()]
    assert len(rows) == 797 and all(row["labels"][row["first_error"]] is False for row in rows)
    marked = [given["steps"][given["incorrect_index"]].strip() for given in raw]
    assert [row["completions"][row["first_error"]] for row in rows] == marked
