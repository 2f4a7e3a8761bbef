"""Trajectory rows: what is accepted, what is refused and how, ids, groups and audits."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest

from qstep.data import RowError, check_row, how_to_add, numbered_rows, outcome, read_groups
from qstep.data.rows import Format
from qstep.stages.commands import COMMANDS
from raw_rows import write

SAMPLED: dict[str, Any] = {
    "id": "p/0#1",
    "problem_id": "p/0",
    "sample": 1,
    "task": "math",
    "prompt": "1+1=",
    "gold": "2",
    "completion": "1+1=2\n#2",
    "completion_ids": [5, 6, 7],
    "logps_behavior": [-0.1, -2.5, 0.0],
    "finish_reason": "stop",
}
GRADED = {
    **SAMPLED,
    "answer": "2",
    "verdict": "right",
    "reason": "same",
    "grader": "1",
    "label": True,
    "reward": 1.0,
}
ANNOTATED = {
    **GRADED,
    "completions": ["1+1=2", "#2"],
    "step_separator": "\n",
    "labels": [1.0, 0.5],
    "label_source": "monte_carlo",
    "successes": [4, 2],
    "trials": [4, 4],
}
SCORED = {**ANNOTATED, "q_values": [0.3, -2.0], "score": -2.0, "step_rewards": [0.57, 0.12]}
STEPWISE = {"prompt": "Q", "completions": ["a", "2020-01-01"], "labels": [True, False]}


def checked(path: Path, format: Format, need: Collection[str] = ()) -> list[dict[str, Any]]:
    return [check_row(path, line, raw, format, need=need) for line, raw in numbered_rows(path)]


def without(row: dict[str, Any], column: str) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != column}


@pytest.mark.parametrize("row", [SAMPLED, GRADED, ANNOTATED, SCORED])
def test_every_stages_rows_pass_unchanged(tmp_path: Path, row: dict[str, Any]) -> None:
    format: Format = "stepwise" if "labels" in row else "unpaired" if "label" in row else "prompt-completion"
    assert checked(write(tmp_path / "r.jsonl", row), format) == [row]


def test_nothing_is_cast(tmp_path: Path) -> None:
    """Labels keep their kind, and a step that looks like a date stays a text."""
    soft = {**STEPWISE, "labels": [1.0, 0.0]}
    hard_back, soft_back = checked(write(tmp_path / "r.jsonl", STEPWISE, soft), "stepwise")
    assert [type(label) for label in hard_back["labels"] + soft_back["labels"]] == [bool, bool, float, float]
    assert hard_back["completions"] == ["a", "2020-01-01"]


def test_other_names_of_how_a_response_ended_are_read(tmp_path: Path) -> None:
    """A response that was cut off under another name refused the file."""
    names = {"max_tokens": "length", "end_turn": "stop", "eos": "stop", "eos_token": "stop", "length": "length"}
    rows = [{**SAMPLED, "id": name, "finish_reason": name} for name in names]
    path = write(tmp_path / "r.jsonl", *rows)
    assert [row["finish_reason"] for row in checked(path, "prompt-completion")] == [*names.values()]


BAD_ROWS: list[tuple[Format, dict[str, Any], str, str]] = [
    ("prompt-completion", without(SAMPLED, "prompt"), "prompt", "missing"),
    ("prompt-completion", {**SAMPLED, "prompt": ""}, "prompt", "messages"),
    ("prompt-completion", {**SAMPLED, "prompt": []}, "prompt", "messages"),
    ("prompt-completion", {**SAMPLED, "prompt": [{"role": "user"}]}, "prompt", "messages"),
    ("prompt-completion", {**SAMPLED, "completion": ["a"]}, "completion", "give a string"),
    ("prompt-completion", {**SAMPLED, "completion_ids": []}, "completion_ids", "non-empty"),
    ("prompt-completion", {**SAMPLED, "completion_ids": [1, 2.0, 3]}, "completion_ids", "token ids"),
    (
        "prompt-completion",
        {**SAMPLED, "completion_ids": [1, 2]},
        "logps_behavior",
        "3 entries, and completion_ids has 2",
    ),
    ("prompt-completion", {**SAMPLED, "logps_behavior": [-1.0, 0.5, -1.0]}, "logps_behavior", "at most 0"),
    ("prompt-completion", {**SAMPLED, "logps_behavior": [-1.0, -9999.0, -1.0]}, "logps_behavior", "at least -1000"),
    ("prompt-completion", {**SAMPLED, "finish_reason": "tool_calls"}, "finish_reason", "'length'"),
    ("prompt-completion", {**SAMPLED, "gold": 2}, "gold", "in quotes"),
    ("prompt-completion", {**SAMPLED, "sample": True}, "sample", "whole number"),
    ("unpaired", SAMPLED, "reward", "grade the rows"),
    ("unpaired", {**GRADED, "label": 1}, "label", "true, false or null"),
    ("unpaired", {**GRADED, "reward": True}, "reward", "finite number"),
    ("unpaired", {**GRADED, "reward": "1"}, "reward", "finite number"),
    ("unpaired", {**GRADED, "reward": 1e39}, "reward", "that float32 holds"),
    ("unpaired", {**GRADED, "verdict": "correct"}, "verdict", "ungradable"),
    ("stepwise", GRADED, "completions", "missing"),
    ("stepwise", {**STEPWISE, "labels": None}, "labels", "`qstep annotate`"),
    ("stepwise", {**STEPWISE, "completions": [], "labels": []}, "completions", "at least one step"),
    ("stepwise", {**STEPWISE, "completions": ["a", " "]}, "completions", "none of them blank"),
    ("stepwise", {**STEPWISE, "completions": "a\nb"}, "completions", "list of steps"),
    ("stepwise", {**STEPWISE, "labels": [True]}, "labels", "has 1 entry, and completions has 2"),
    ("stepwise", {**STEPWISE, "labels": [True, 0.5]}, "labels", "never both kinds"),
    ("stepwise", {**STEPWISE, "labels": [1, 0]}, "labels", "true or false"),
    ("stepwise", {**STEPWISE, "labels": [2, 1]}, "labels", "true or false"),
    ("stepwise", {**STEPWISE, "labels": [1.5, 0.0]}, "labels", "in \\[0, 1\\]"),
    ("stepwise", {**STEPWISE, "labels": [True, -100]}, "labels", "true or false"),
    ("stepwise", {**STEPWISE, "labels": [True, None, 0.5]}, "labels", "never both kinds"),
    ("stepwise", {**STEPWISE, "step_separator": "-"}, "completions", "contains the step_separator"),
    ("stepwise", {**STEPWISE, "step_separator": ""}, "step_separator", "string between"),
    ("prompt-completion", without(SAMPLED, "completion_ids"), "logps_behavior", "without completion_ids"),
    ("prompt-completion", {**SAMPLED, "metadata": "none"}, "metadata", "object"),
    ("stepwise", {**STEPWISE, "labels": ["+", "-"]}, "labels", "true or false"),
    ("stepwise", {**ANNOTATED, "successes": [5, 1]}, "successes", "exceeds trials"),
    ("stepwise", {**SCORED, "q_values": [0.1]}, "q_values", "has 1 entry, and completions has 2"),
]


@pytest.mark.parametrize(("format", "bad", "field", "advice"), BAD_ROWS)
def test_a_bad_row_is_named(tmp_path: Path, format: Format, bad: dict[str, Any], field: str, advice: str) -> None:
    good = {**SCORED, "id": "other"}
    path = write(tmp_path / "rows.jsonl", good, bad)
    with pytest.raises(RowError, match=advice) as error:
        checked(path, format)
    assert (error.value.path, error.value.line, error.value.field) == (path, 2, field)
    assert str(error.value).startswith(f"{path}, line 2, field {field!r}: ")


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ('{"prompt": "Q", "completion": "a", "reward": NaN}\n{}\n', "line 1: NaN"),
        ("prompt,completion\nQ,a\n", "line 1: not JSON"),
        ('["Q", "a"]\n["Q", "b"]\n', "line 1: a list"),
        ('[{"prompt": "Q"}]\n', "line 1: a list"),
        ('{"prompt": "Q", "completion": "a", "reward": 1}\n\n{}\n', "line 3, field 'prompt': is missing"),
        ('{"prompt": "Q", "completion": "a", "reward": 1e999}\n', "line 1: a number too large to be finite"),
        ('{"prompt": "Q", "completion": "a", "reward": -2E+309}\n', "line 1: a number too large to be finite"),
        (f'{{"prompt": "Q", "completion": "a", "reward": {"7" * 310}.5}}\n', "line 1: a number too large to be finite"),
        ('{"prompt": "Q", "completion": "a", "reward": 1}\n{"prompt": "Q", "comp', "line 2: .*incomplete"),
    ],
)
def test_a_file_of_another_kind_is_named(tmp_path: Path, text: str, what: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(text)
    with pytest.raises(RowError, match=what):
        checked(path, "unpaired")


@pytest.mark.parametrize("labels", [[None, None], [True, None], [None, 0.5]])
def test_null_is_a_label_beside_one_kind(tmp_path: Path, labels: list[Any]) -> None:
    row = {**STEPWISE, "labels": labels}
    assert checked(write(tmp_path / "r.jsonl", row), "stepwise") == [row]


def test_null_for_all_labels_is_no_labels(tmp_path: Path) -> None:
    """As a column of some rows becomes in all rows that `datasets` writes."""
    assert checked(write(tmp_path / "r.jsonl", {**GRADED, "labels": None}), "unpaired") == [GRADED]


def test_long_values_are_shortened_in_the_message(tmp_path: Path) -> None:
    path = write(tmp_path / "r.jsonl", {**STEPWISE, "labels": ["x" * 10_000] * 2})
    with pytest.raises(RowError) as error:
        checked(path, "stepwise")
    assert len(str(error.value)) < 500 + len(str(path))


def test_needed_columns(tmp_path: Path) -> None:
    path = write(tmp_path / "r.jsonl", without(SAMPLED, "logps_behavior"))
    assert checked(path, "prompt-completion", need={"completion_ids"})
    with pytest.raises(RowError, match="line 1, field 'logps_behavior': is missing"):
        checked(path, "prompt-completion", need={"logps_behavior"})


def test_a_conversational_completion_becomes_its_text(tmp_path: Path) -> None:
    prompt = [{"role": "user", "content": "Q"}]
    reply = [{"role": "assistant", "content": "a"}]
    path = write(tmp_path / "r.jsonl", {"prompt": prompt, "completion": reply, "reward": 0})
    (row,) = checked(path, "unpaired")
    assert row["prompt"] == prompt and row["completion"] == "a"
    with pytest.raises(RowError, match="begins with a message of 'user'"):
        checked(write(path, {"prompt": prompt, "completion": prompt + reply, "reward": 0}), "unpaired")


def test_a_sampled_response_may_be_silent(tmp_path: Path) -> None:
    silent = {**ANNOTATED, "completion": "", "completions": [], "labels": [], "successes": [], "trials": []}
    assert checked(write(tmp_path / "r.jsonl", silent), "stepwise") == [silent]


def test_groups_need_not_be_consecutive() -> None:
    rows = [
        {"problem_id": "b", "prompt": "Q", "n": 0},
        {"problem_id": "a", "prompt": "Q", "n": 1},
        {"problem_id": "b", "prompt": "Q", "n": 2},
        {"prompt": [{"role": "user", "content": "R"}], "n": 3},
        {"prompt": [{"content": "R", "role": "user"}], "n": 4},
        {"prompt": "Q", "n": 5},
    ]
    assert [[row["n"] for row in group] for group in read_groups(rows)] == [[0, 2], [1], [3, 4], [5]]


def test_a_problem_is_its_id_and_its_prompt() -> None:
    rows = [{"problem_id": "7", "prompt": prompt, "n": n} for n, prompt in enumerate(("Q", "R", "Q"))]
    assert [[row["n"] for row in group] for group in read_groups(rows)] == [[0, 2], [1]]


def test_outcomes() -> None:
    assert outcome({"reward": 0.25, "label": True}) == 0.25
    assert [outcome({"label": label}) for label in (True, False, None)] == [1.0, 0.0, None]
    assert outcome({"reward": None, "label": None}) is None


def test_a_response_without_a_step_is_a_row_to_count_not_an_error(tmp_path: Path) -> None:
    """An empty response is graded wrong and has no step to label."""
    row = {"prompt": "p", "completion": "", "completions": [], "labels": [], "label": False}
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row) + "\n")
    assert checked(path, "stepwise")[0]["completions"] == []
    assert checked(path, "unpaired")[0]["completion"] == ""


@pytest.mark.parametrize("column", ["verdict", "labels", "q_values", "score", "step_rewards"])
def test_a_missing_column_names_the_command_that_writes_it(tmp_path: Path, column: str) -> None:
    path = tmp_path / "rows.jsonl"
    write(path, SAMPLED)
    with pytest.raises(RowError, match=f"field '{column}': is missing; {how_to_add(column)}"):
        checked(path, "prompt-completion", [column])
    assert how_to_add(column).split("`")[1].removeprefix("qstep ") in COMMANDS


def test_whole_numbers_are_ids(tmp_path: Path) -> None:
    """Files of other programs number their rows. True and 1.5 number nothing."""
    row = {"prompt": "q", "completion": "x", "id": 7, "problem_id": 0}
    checked = check_row(tmp_path / "rows.jsonl", 1, row, "prompt-completion")
    assert (checked["id"], checked["problem_id"]) == ("7", "0") and row["id"] == 7
    for bad in (True, 1.5, ""):
        with pytest.raises(RowError, match="give a string or a whole number"):
            check_row(tmp_path / "rows.jsonl", 1, {**row, "id": bad}, "prompt-completion")
