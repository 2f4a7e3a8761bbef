"""`--steps_of`: annotate and score one part of responses, and count those that lack it."""

from __future__ import annotations

from pathlib import Path

import pytest

from qstep.data import read_rows, write_jsonl
from qstep.objectives import METHODS
from qstep.objectives.source import RowsFile
from qstep.runs.stage_file import read_meta
from qstep.stages.annotate import AnnotateConfig, annotate
from qstep.stages.grade import GradeConfig, grade
from qstep.stages.score import ScoreConfig, score
from qstep.tasks import miniature
from scorers import miniature_scorer

TEXTS = ["<think>\n2+2=4\n</think>\n2+2=4\n#### 4", "<think>\n2+2=5\n2+2", "#### 4"]


@pytest.fixture
def graded(tmp_path: Path) -> Path:
    rows = [
        {"id": f"p#{i}", "problem_id": "p", "sample": i, "task": "math", "prompt": "2+2?", "gold": "4",
         "completion": text, "finish_reason": "stop" if "4" in text else "length"}
        for i, text in enumerate(TEXTS)
    ]  # fmt: skip
    write_jsonl(tmp_path / "rows.jsonl", rows)
    return grade(GradeConfig(tmp_path / "rows.jsonl", tmp_path / "graded.jsonl"))


@pytest.mark.parametrize(
    ("part", "steps", "lacking"),
    [("thinking", [["2+2=4"], ["2+2=5", "2+2"], []], 1), ("answer", [["2+2=4", "#### 4"], [], ["#### 4"]], 1)],
)
def test_one_part_is_annotated(
    part: str, steps: list[list[str]], lacking: int, graded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = annotate(
        AnnotateConfig(input=graded, output=tmp_path / "labels.jsonl", method="outcome", steps_of=part)  # type: ignore[arg-type]
    )
    rows = list(read_rows(output))
    assert [row["completions"] for row in rows] == steps
    assert {row["step_separator"] for row in rows} == {f"split:{part}:line"}
    assert all(len(row["labels"]) == len(row["completions"]) for row in rows)
    assert read_meta(output)["summary"]["without_steps"] == lacking
    assert "1 response without steps: empty, or without the part for steps" in capsys.readouterr().err
    method = METHODS["bce"]
    config = method.config(
        str(tmp_path), use_cpu=True, report_to="none", step_separator=f"split:{part}:line", separator_token="\n"
    )
    assert method.objective(config, miniature.tokenizer()).rows(RowsFile(output)).left_out["no steps"] == 1


def test_a_separator_without_a_name_has_no_part(graded: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"--steps_of answer: .* not '\|'. Give --step_separator"):
        AnnotateConfig(input=graded, output=tmp_path / "out.jsonl", steps_of="answer", step_separator="|")


def test_a_scorer_of_one_part_scores_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scorer = miniature_scorer(tmp_path / "scorer", step_separator="split:answer:line")
    texts = ["<think>\n1+1=4\n</think>\n2+2=4\n#4", "<think>\n2+2=5\n2+2", "#4"]
    write_jsonl(tmp_path / "rows.jsonl", [{"prompt": "2+2=\n", "completion": text} for text in texts])
    given = ScoreConfig(input=tmp_path / "rows.jsonl", output=tmp_path / "s.jsonl", scorer=str(scorer))
    scored = list(read_rows(score(given)))
    assert [row["completions"] for row in scored] == [["2+2=4", "#4"], [], ["#4"]]
    assert [row["score"] is None for row in scored] == [False, True, False]
    assert "1 of 3 responses have no steps at 'split:answer:line'" in capsys.readouterr().err


def test_a_response_of_several_turns_has_no_parts(graded: Path, tmp_path: Path) -> None:
    row = next(iter(read_rows(graded)))
    said = [("assistant", "2+2"), ("user", "?"), ("assistant", "4")]
    turns = [{"role": role, "content": text} for role, text in said]
    row |= {"prompt": [{"role": "user", "content": "2+2?"}], "completion": turns}
    write_jsonl(tmp_path / "turns.jsonl", [row])
    config = AnnotateConfig(
        input=tmp_path / "turns.jsonl", output=tmp_path / "labels.jsonl", method="outcome", steps_of="thinking"
    )
    with pytest.raises(ValueError, match="--steps_of thinking reads responses of one turn"):
        annotate(config)
