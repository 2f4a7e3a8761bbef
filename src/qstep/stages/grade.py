"""`qstep grade`: responses in, verdicts and rewards out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from qstep.stages.inputs import finished, refuse_overwriting, settings_of
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
        input: rows written by `qstep sample`, or responses made elsewhere: a question (`question`, `problem` or
            `prompt`), its answer (`answer` or `gold`) and the text (`text`, `response` or `completion`) a line, or a
            list of `responses`.
        output: the JSONL file to write.
        offset: how many problems of the input to skip, in order of appearance.
        num_problems: how many problems, all by default.
    """

    input: Path
    output: Path
    offset: int = 0
    num_problems: int | None = None


def grade(config: GradeConfig) -> Path:
    """Runs the stage and returns its output."""
    from qstep.data import StageFile, count_responses, group_key, read_responses, read_rows
    from qstep.tasks import grade_rows

    refuse_overwriting(config)
    tasks = config.tasks()
    version = tasks.named(config.task).version
    settings = settings_of(config, *NO_EFFECT, input=finished(config.input), version=version)
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

        def rows() -> Iterator[Row]:
            return read_responses(
                config.input,
                task=config.task,
                offset=config.offset,
                limit=config.num_problems,
                need=("gold",),
                accept=tasks.of,
            )

        some = config.offset or config.num_problems is not None
        total = sum(1 for _ in rows()) if some else count_responses(config.input)
        if not total:
            problems = len({group_key(row) for row in read_responses(config.input, task=config.task)})
            raise ValueError(
                f"{config.input} has {problems} problems; offset is {config.offset}"
                if problems
                else f"{config.input} has no rows"
            )
        with bar(f"grade {config.output.stem}", total, len(file.done)) as advance:
            pending: list[Row] = []
            for row in rows():
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
