"""What a first user gets wrong in Python is answered in one sentence."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qstep
from qstep.scoring import StepScorer
from scorers import miniature_scorer

ROWS = [{"question": "2 + 3?", "answer": "5", "responses": ["#### 5", "#### 6"]}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return miniature_scorer(tmp_path_factory.mktemp("models") / "scorer")


def test_a_misspelt_kind_is_refused(folder: Path) -> None:
    with pytest.raises(
        ValueError, match=r"'qwen_prn' is not a kind of scorer \(did you mean qwen_prm\?\): choose one of"
    ):
        qstep.load_scorer(folder, kind="qwen_prn")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("steps", "problem"),
    [
        (["1+2=3\n3*3=9"], r"the step '1\+2=3\\n3\*3=9' is several steps at this scorer's separator '\\n'"),
        (["1+2=3", " "], r"steps\[1\] is blank: leave it out"),
    ],
)
def test_score_keeps_the_contract(folder: Path, steps: list[str], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        StepScorer.load(folder).score("1+2*3=", steps)


def test_a_hub_id_that_is_not_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(OSError, match=r"^nobody/nothing is not a folder here\. As a Hub id it was not reached: "):
        qstep.load_scorer("nobody/nothing")


@pytest.mark.parametrize("ns", [2, "1,2", [0], [True], [1.5]])
def test_ns_is_a_list_of_whole_numbers(ns: Any) -> None:
    with pytest.raises(ValueError, match=r"ns is .*; give a list of whole numbers of at least 1"):
        qstep.best_of_n(qstep.grade(ROWS), ns=ns)


def test_a_shortened_table_says_so() -> None:
    rows = [*ROWS, {"question": "1 + 1?", "answer": "2", "responses": ["#### 2"]}]
    result = qstep.best_of_n(qstep.grade(rows))
    assert result.is_short and "some problem has no more than 1 responses; give ns for more" in repr(result)
    assert not qstep.best_of_n(qstep.grade(ROWS)).is_short


def test_other_first_mistakes(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="scorer is None; give a scorer of load_scorer, a folder or a Hub id"):
        qstep.score(ROWS, None)  # type: ignore[type-var]
    with pytest.raises(TypeError, match="the text must be a string, not int"):
        qstep.split_steps(3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^grader 'nope' is not of the form module:function"):
        qstep.grade(ROWS, grader="nope")
    with pytest.raises(ValueError, match=r"rows\[0\], column 'reward': is inf; give a finite number, or None"):
        qstep.grade([{**ROWS[0], "reward": math.inf}])
    with pytest.raises(ValueError, match="is a folder: give a file"):
        qstep.read_rows(tmp_path)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"value": "heads"}, "--value is 'heads'; it must be one of separate, head"),
        (
            {"reference": "unifrom"},
            "--reference is 'unifrom'; it must be one of model, uniform",
        ),
        ({"over_long": "skip"}, "--over_long is 'skip'; it must be one of refuse, drop"),
        ({"max_length": "many"}, "--max_length is 'many'; it must be a whole number"),
        ({"train_file": "x.jsonl"}, "train_file is not an option here: give rows"),
        ({"eval_file": "x.jsonl"}, "eval_file is not an option here: give eval_rows"),
        ({"model_name_or_path": "x"}, "model_name_or_path is not an option here: give model"),
    ],
)
def test_options_of_training_are_checked_as_the_commands_are(
    options: dict[str, Any], problem: str, tmp_path: Path
) -> None:
    rows = [{"prompt": "1+1=", "completion": "2", "label": True}]
    with pytest.raises(ValueError, match=problem):
        qstep.train("dqo", rows, model="no/model", output_dir=tmp_path, **options)


def test_numbers_of_numpy_are_numbers_and_none_is_no_number(base: Path, tmp_path: Path) -> None:
    rows = [{"prompt": "1+2*3=", "completions": ["1+2=3", "3*3=6"], "labels": [True, False]}]
    options = {"model": base, "output_dir": tmp_path / "pqm", "report_to": "none", "save_strategy": "no"}
    assert qstep.train("bce", rows, max_steps=np.int64(1), learning_rate=np.float64(1e-4), **options).is_dir()
    with pytest.raises(ValueError, match="learning_rate is None: leave it out for its default"):
        qstep.train("bce", rows, learning_rate=None, **options)


def test_a_verdict_is_no_score(caplog: pytest.LogCaptureFixture) -> None:
    """Files of other projects have a score that says whether the answer is right."""
    problem = {"question": "2+2?", "answer": "4", "responses": ["#### 4", "#### 5"]}
    graded = qstep.grade([problem])
    qstep.best_of_n([{**row, "score": row["reward"]} for row in graded])
    assert "the score of 'scorer' is 1 for each right answer and 0 for each wrong one" in caplog.text
    caplog.clear()
    qstep.best_of_n([{**row, "score": row["reward"] - 0.5} for row in graded])
    assert not caplog.text
    with pytest.raises(ValueError, match="1 is the name of a table; give each table the name of its scorer"):
        qstep.best_of_n({1: graded})


def test_a_row_that_is_too_long_is_named_by_its_place(folder: Path) -> None:
    rows = [{"question": "1+2*3=", "response": "1+2=3"}, {"question": "1+2*3=", "response": "1+2=3\n" * 400}]
    with pytest.raises(ValueError, match=r"rows\[1\]"):
        qstep.score(rows, folder)
    [scored] = qstep.score(rows[:1], folder)
    assert scored["id"].endswith("#0")


def test_an_output_folder_is_needed() -> None:
    with pytest.raises(ValueError, match="missing: --output_dir"):
        qstep.train("rs", [{"prompt": "a", "completion": "b"}], model="no/model", output_dir=None)  # type: ignore[arg-type]


def test_tables_of_other_responses_are_not_compared() -> None:
    graded = qstep.grade(ROWS)
    scored = [{**row, "score": 1.0} for row in graded]
    other = [{**row, "completion": "#### 7", "verdict": "wrong"} for row in scored]
    for differs in (other, [{**row, "gold": "8"} for row in scored]):
        with pytest.raises(ValueError, match=r"rows\[0\] of 'b' differs from the same row of 'a'"):
            qstep.best_of_n({"a": scored, "b": differs})
    with pytest.raises(
        ValueError, match=r"rows\[1\], column 'gold': is '6', but the same problem has '5' in rows\[0\]"
    ):
        qstep.best_of_n([graded[0], {**graded[1], "gold": "6"}])
