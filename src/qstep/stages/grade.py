"""`qstep grade`: responses in, verdicts and rewards out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from qstep.stages.inputs import finished, settings_of
from qstep.stages.options import NO_EFFECT, GradingOptions
from qstep.stages.progress import bar
from qstep.types import Row

if TYPE_CHECKING:
    from qstep.grading import Grade

_ROWS_AT_ONCE = 256


@dataclass
class GradeConfig(GradingOptions):
    """Grades every response: `right`, `wrong`, or `ungradable` (never counted as wrong).

    Args:
        input: rows written by `qstep sample`.
        output: the JSONL file to write.
    """

    input: Path
    output: Path


def grade(config: GradeConfig) -> Path:
    """Runs the stage and returns its output."""
    from qstep.data import StageFile, count_rows, read_rows
    from qstep.tasks import grade_rows

    tasks = config.tasks()
    settings = settings_of(config, *NO_EFFECT, input=finished(config.input))
    with StageFile.open(config.output, stage="grade", settings=settings) as file:
        if file.complete:
            return config.output
        verdicts = {"right": 0, "wrong": 0, "ungradable": 0}

        def flush(rows: list[Row]) -> None:
            grades = grade_rows(rows, tasks)
            file.append(
                [
                    {
                        **row,
                        "answer": grade.answer,
                        "verdict": grade.verdict,
                        "reason": grade.reason,
                        "grader": tasks.of(row).version,
                        **_outcome(grade),
                    }
                    for row, grade in zip(rows, grades, strict=True)
                ]
            )

        with bar(f"grade {config.output.stem}", count_rows(config.input), len(file.done)) as advance:
            pending: list[Row] = []
            for row in read_rows(config.input):
                if row["id"] in file.done:
                    continue
                pending.append(row)
                if len(pending) == _ROWS_AT_ONCE:
                    flush(pending)
                    advance(len(pending))
                    pending = []
            flush(pending)
            advance(len(pending))
        for row in read_rows(config.output, allow_torn=True):
            verdicts[row["verdict"]] += 1
        file.finish({"verdicts": verdicts})
    return config.output


def _outcome(grade: Grade) -> Row:
    if grade.verdict == "ungradable":
        return {"label": None, "reward": None}
    right = grade.verdict == "right"
    return {"label": right, "reward": float(right) if grade.reward is None else grade.reward}
