"""Tables in memory: they give what the commands write, their kind comes back, and what is no table is refused."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas
import pytest
import torch

import qstep
from qstep.data import plain_rows, read_rows, write_jsonl
from qstep.evals import as_json
from qstep.stages.annotate import AnnotateConfig, annotate
from qstep.stages.best_of_n import BestOfNConfig, best_of_n
from qstep.stages.grade import GradeConfig, grade
from qstep.stages.score import ScoreConfig, score
from qstep.tasks import miniature
from scorers import miniature_scorer

QUESTIONS = [
    {"question": "2 * 3 + 1?", "answer": "7", "response": "2 * 3 = 6\n6 + 1 = 7\n#### 7"},
    {"question": "2 * 3 + 1?", "answer": "7", "response": "2 * 3 = 6\n6 + 1 = 8\n#### 8"},
    {"question": "1 + 1?", "answer": "2", "response": "#### 2"},
    {"question": "1 + 1?", "answer": "2", "response": "I do not know."},
]
KINDS = {
    "list": list,
    "dataset": datasets.Dataset.from_list,
    "frame": lambda rows: pandas.DataFrame(rows, index=[10 * number for number in range(len(rows))]),
}


def textbook() -> list[dict[str, Any]]:
    """Right and wrong responses to five problems of the miniature."""
    rows = []
    for problem in miniature.problems("test", 5):
        right = miniature.solution(problem.prompt)
        texts = [right, f"{right[:-1]}{(int(right[-1]) + 1) % 10}", right, f"{right[:4]}"]
        rows += [
            {"id": f"{problem.id}#{sample}", "problem_id": problem.id, "sample": sample, "task": "miniature"}
            | {"prompt": problem.prompt, "gold": problem.gold, "completion": text}
            for sample, text in enumerate(texts)
        ]
    return rows


@pytest.fixture(scope="module")
def scorer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return miniature_scorer(tmp_path_factory.mktemp("scorer") / "pqm")


def test_rows_are_those_of_the_commands(scorer: Path, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "rows.jsonl", textbook())
    grade(GradeConfig(tmp_path / "rows.jsonl", tmp_path / "graded.jsonl"))
    score(ScoreConfig(tmp_path / "graded.jsonl", tmp_path / "scored.jsonl", scorer=str(scorer)))
    annotate(AnnotateConfig(tmp_path / "graded.jsonl", tmp_path / "labels.jsonl", method="outcome"))
    best_of_n(BestOfNConfig(tmp_path / "scored.jsonl", tmp_path / "report.json"))

    graded = qstep.grade(textbook())
    assert graded == list(read_rows(tmp_path / "graded.jsonl"))
    assert qstep.annotate_outcome(graded) == list(read_rows(tmp_path / "labels.jsonl"))
    scored = qstep.score(graded, str(scorer))
    assert scored == list(read_rows(tmp_path / "scored.jsonl"))
    result, report = qstep.best_of_n(scored), json.loads((tmp_path / "report.json").read_text())
    curves = {name: {str(n): of for n, of in curve.items()} for name, curve in result.curves.items()}
    assert as_json(curves) == report["curves"] and as_json(result.differences) == report["differences"]
    assert (result.problems, result.responses, result.left_out) == (5, 20, 0)


@pytest.mark.parametrize("kind", KINDS)
def test_the_kind_of_table_comes_back(kind: str, scorer: Path) -> None:
    given = KINDS[kind](QUESTIONS)
    before = list(plain_rows(given))
    graded = qstep.grade(given)
    labelled = qstep.annotate_outcome(graded)
    assert type(graded) is type(labelled) is type(given)
    assert list(plain_rows(given)) == before  # it is not changed
    assert [row["verdict"] for row in plain_rows(graded)] == ["right", "wrong", "right", "wrong"]
    assert [row["labels"] for row in plain_rows(labelled)] == [[True] * 3, [True, False, False], [True], [False]]
    result = qstep.best_of_n(graded, ns=[1, 2])
    assert result.curves["mean"][2].mean == 0.5 and result.curves["pass"][2].mean == 1.0
    digits = KINDS[kind](textbook())
    scored = qstep.score(digits, str(scorer))
    assert type(scored) is type(given) and [len(row["q_values"]) for row in plain_rows(scored)][3] == 1
    assert {"scorer", "scorer_weighted"} <= {*qstep.best_of_n(qstep.grade(scored)).curves}


def test_a_frame_keeps_its_index_also_where_rows_are_left_out_or_several_are_made() -> None:
    frame = pandas.DataFrame(QUESTIONS, index=["a", "b", "c", "d"])
    graded = qstep.grade(frame, grader=lambda completions, **_: [None if "know" in text else 1 for text in completions])
    assert list(graded.index) == ["a", "b", "c", "d"] and graded["reward"].isna().sum() == 1
    assert list(qstep.annotate_outcome(graded).index) == ["a", "b", "c"]
    nested = pandas.DataFrame({"question": ["1 + 1?", "1 + 2?"], "answer": [2, 3], "responses": [["2", "3"], ["3"]]})
    assert list(qstep.grade(nested).index) == [0, 0, 1]


def test_what_pandas_and_numpy_have_for_values_is_plain() -> None:
    frame = pandas.DataFrame(
        {
            "question": ["1 + 1?", "1 + 2?", "1 + 3?"],
            "answer": np.array([2, 3, 4]),
            "completions": [np.array(["1 + 1 = 2", "#### 2"], dtype=object), None, math.nan],
            "response": [None, "#### 3", pandas.NA],
            "labels": [np.array([True, False]), math.nan, pandas.NA],
            "score": np.float32([0.5, math.nan, 1.0]),
            "seen": pandas.to_datetime(["2026-01-01", None, None]),
            "weights": [torch.tensor([1.0, math.nan]), None, ()],
        }
    )
    first, second, third = plain_rows(frame)
    assert first["completions"] == ["1 + 1 = 2", "#### 2"] and first["labels"] == [True, False]
    assert (first["answer"], type(first["answer"])) == (2, int) and first["weights"] == [1.0, None]
    assert "completions" not in second and "labels" not in second and second["score"] is None
    assert second["seen"] is None and third["weights"] == []
    assert list(qstep.grade(frame.drop(columns="labels")[:2])["verdict"]) == ["right", "right"]


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ("rows.jsonl", r"'rows.jsonl'.*qstep.read_rows"),
        (Path("rows.jsonl"), r"qstep.read_rows"),
        (QUESTIONS[0], r"of type dict with question, answer, response.*\[row\]"),
        (datasets.DatasetDict(train=datasets.Dataset.from_list(QUESTIONS)), r"DatasetDict with train.*one split"),
        (42, "rows is of type int"),
        (None, "rows is of type NoneType"),
        (["a response"], r"rows\[0\] must be a dict, not str"),
    ],
)
def test_what_is_no_table_is_refused(rows: Any, says: str) -> None:
    for function in (qstep.grade, qstep.annotate_outcome, lambda table: qstep.best_of_n({"mine": table})):
        with pytest.raises(TypeError, match=says):
            function(rows)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("column", ["question", "answer", "response"])
def test_a_missing_column_is_named_with_its_row(kind: str, column: str) -> None:
    rows = [dict(row) for row in QUESTIONS]
    rows[2].pop(column)
    with pytest.raises(ValueError, match=r"^rows\[2\], column '\w+': is "):
        qstep.grade(KINDS[kind](rows))


def test_rows_that_are_not_graded_or_not_scored_are_refused() -> None:
    graded = qstep.grade(QUESTIONS)
    with pytest.raises(ValueError, match=r"rows\[0\], column 'verdict': is missing"):
        qstep.annotate_outcome(QUESTIONS)
    with pytest.raises(ValueError, match=r"rows\[0\], column 'score': is missing"):
        qstep.best_of_n({"mine": graded})
    half = [{**row, "score": 0.5} for row in graded[:2]] + graded[2:]
    with pytest.raises(ValueError, match=r"rows\[2\] of 'scorer' has no score"):
        qstep.best_of_n(half)
    scored = [{**row, "score": 0.5} for row in graded]
    with pytest.raises(ValueError, match="'b' and 'a' have different rows"):
        qstep.best_of_n({"a": scored, "b": scored[:-1]})
    with pytest.raises(ValueError, match="no problem has 3 responses, and none has more than 2"):
        qstep.best_of_n(scored, ns=[3])
    with pytest.raises(ValueError, match="rows is empty"):
        qstep.best_of_n([])


def test_scorers_are_compared() -> None:
    graded = qstep.grade(QUESTIONS)
    knows = [{**row, "score": float(row["label"])} for row in graded]
    errs = [{**row, "score": -float(row["label"])} for row in graded]
    silent = [
        {**row, "score": None} if row["label"] else {**row, "score": 0.0} for row in graded
    ]  # no step, so it loses
    result = qstep.best_of_n({"knows": knows, "errs": errs, "silent": silent})
    assert [result.curves[name][2].mean for name in ("knows", "errs", "silent")] == [1.0, 0.0, 0.0]
    assert result.differences["knows_minus_errs"].mean == 1.0
    lines = repr(result).splitlines()
    assert lines[0].endswith("problems: 2") and lines[1].split() == ["n", "=", "1", "n", "=", "2"]
    [knows_line] = [line for line in lines if line.startswith("knows ")]
    assert "0.500 [" in knows_line and "1.000 [" in knows_line
    assert {(row["method"], row["n"], row["mean"]) for row in result.table} >= {("knows", 2, 1.0), ("mean", 1, 0.5)}
    assert "left out with fewer responses: 1" in repr(qstep.best_of_n(knows[:3], ns=[2]))


def test_a_function_grades() -> None:
    def length(prompts: list[str], completions: list[str], **columns: Any) -> list[float]:
        return [len(text) / 10 for text in completions]

    graded = qstep.grade(QUESTIONS, grader=length)
    assert [row["reward"] for row in graded] == [len(row["response"]) / 10 for row in QUESTIONS]
    assert {row["grader"].rpartition(".")[2] for row in graded} == {"length"}


def test_an_object_without_a_hash_grades() -> None:
    @dataclass
    class Always:
        reward: float

        def __call__(self, completions: list[str], **columns: Any) -> list[float]:
            return [self.reward] * len(completions)

    for reward in (0.0, 1.0):
        assert [row["reward"] for row in qstep.grade(QUESTIONS, grader=Always(reward))] == [reward] * len(QUESTIONS)


def test_a_loaded_scorer_is_taken(scorer: Path) -> None:
    loaded = qstep.load_scorer(str(scorer))
    rows = textbook()[:3]
    assert qstep.score(rows, loaded) == qstep.score(rows, scorer)
    with pytest.raises(ValueError, match=r"max_length"):
        qstep.score([{"prompt": "1+2=\n", "completion": "\n".join(["1+2=3"] * 60)}], loaded)


@pytest.mark.skipif(torch.cuda.is_available(), reason="tests/test_gpu.py loads a scorer there")
def test_a_scorer_is_loaded_to_the_gpu_if_there_is_one(scorer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As by the commands. Here there is none, so a machine that says it has one cannot use it."""
    for load in (qstep.load_scorer, qstep.StepScorer.load):
        assert "cpu" in repr(load(scorer))
        with monkeypatch.context() as patched, pytest.raises(ValueError, match="cuda cannot be used here"):
            patched.setattr(torch.cuda, "is_available", lambda: True)
            load(scorer)
