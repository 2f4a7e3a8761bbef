"""`qstep grade`: responses in, verdicts and rewards out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from qstep.stages.inputs import finished, settings_of
from qstep.stages.progress import bar
from qstep.types import Row

_ROWS_AT_ONCE = 256


@dataclass
class GradeConfig:
    """Grades every response: `right`, `wrong`, or `ungradable` (never counted as wrong).

    Args:
        input: rows written by `qstep sample`.
        output: the JSONL file to write.
        deadline_s: seconds one answer may take before its worker is killed.
    """

    input: Path
    output: Path
    deadline_s: float = 3.0


def grade(config: GradeConfig) -> Path:
    """Runs the stage and returns its output."""
    from qstep.data import StageFile, count_rows, grade_rows, grader_version, read_rows

    settings = settings_of(config, "output", input=finished(config.input))
    with StageFile.open(config.output, stage="grade", settings=settings) as file:
        if file.complete:
            return config.output
        verdicts = {"right": 0, "wrong": 0, "ungradable": 0}

        def flush(rows: list[Row]) -> None:
            grades = grade_rows(rows, deadline_s=config.deadline_s)
            file.append(
                [
                    {
                        **row,
                        "answer": grade.answer,
                        "verdict": grade.verdict,
                        "reason": grade.reason,
                        "grader": grader_version(row["task"]),
                        "label": None if grade.verdict == "ungradable" else grade.verdict == "right",
                        "reward": None if grade.verdict == "ungradable" else float(grade.verdict == "right"),
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
