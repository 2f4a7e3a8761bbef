"""What a first user gets wrong in Python is answered in one sentence."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

import qstep
from qstep.scoring import StepScorer
from scorers import miniature_scorer

ROWS = [{"question": "2 + 3?", "answer": "5", "responses": ["#### 5", "#### 6"]}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return miniature_scorer(tmp_path_factory.mktemp("models") / "scorer")


def test_a_misspelt_kind_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"'qwen_prn' is no kind of scorer \(did you mean qwen_prm\?\): choose one of"):
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
    with pytest.raises(TypeError, match="the text is of type int, and has to be a string"):
        qstep.split_steps(3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^grader 'nope' is not of the form module:function"):
        qstep.grade(ROWS, grader="nope")
    with pytest.raises(ValueError, match=r"rows\[0\], column 'reward': is inf; give a finite number, or None"):
        qstep.grade([{**ROWS[0], "reward": math.inf}])
    with pytest.raises(ValueError, match="is a folder: give a file"):
        qstep.read_rows(tmp_path)
