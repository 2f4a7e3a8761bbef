"""`qstep grade`: reads responses, and adds verdicts and rewards."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

from qstep.runs.options import GIVEN, AtLeast1, Bounds, NotInSettings, OutputFile, ReadIf, Seed, settings_of
from qstep.runs.runner import Work, in_blocks, write_rows
from qstep.runs.shared_options import RowsInput
from qstep.runs.stage_file import finished
from qstep.tasks.options import ColumnOptions, GradingOptions
from qstep.types import Row, Verdict

if TYPE_CHECKING:
    from qstep.tasks import Tasks

_ROWS_AT_ONCE = 256


_IF_FLIPPED = NotInSettings(unless=lambda config: bool(config.flip_share))
"""Files of earlier versions, without flips, are finished files of this one."""


@dataclass
class GradeConfig(GradingOptions, ColumnOptions):
    """Grades every response as `right`, `wrong` or `ungradable`. An ungradable response never counts as wrong.

    Args:
        input: rows written by `qstep sample`, or your own file of responses. A row of your own has a `question`, its
            right `answer`, and a `response` or a list of `responses`. docs/files.md lists other names that are read,
            and the forms for several files and for Hub ids.
        output: the JSONL file to write.
        offset: number of problems to skip, in order of appearance.
        num_problems: maximum number of problems to grade; all by default.
        flip_share: probability of flipping the verdict of each response, to study the effect of noise. The column
            `flipped` says which were.
        seed: seed of the flips.
    """

    input: RowsInput
    output: OutputFile
    offset: Annotated[int, Bounds(least=0)] = 0
    num_problems: AtLeast1 | None = None
    flip_share: Annotated[float, Bounds(least=0, most=1), _IF_FLIPPED] = 0.0
    seed: Annotated[Seed, ReadIf(flip_share=GIVEN), _IF_FLIPPED] = 0


def grade(config: GradeConfig) -> Path:
    """Runs the stage and returns its output."""
    tasks = config.tasks()
    version = tasks.named(config.task).version
    settings = settings_of(config, input=finished(config.input), version=version)

    def work(done: Collection[str]) -> Work:
        rows = (row for row in _read(config, tasks) if row["id"] not in done)
        graded = map(partial(_graded, config, tasks), in_blocks(rows, _ROWS_AT_ONCE))
        return Work(_number(config, tasks), graded, _verdicts)

    write_rows(config.output, "grade", settings, work)
    return config.output


def _graded(config: GradeConfig, tasks: Tasks, rows: list[Row]) -> list[Row]:
    from qstep.annotate import flip_outcome
    from qstep.tasks import graded_rows

    graded = graded_rows(rows, tasks)
    return [flip_outcome(row, config.flip_share, config.seed) for row in graded] if config.flip_share else graded


def _verdicts(rows: Iterator[Row]) -> dict[str, dict[str, int]]:
    found = Counter(row["verdict"] for row in rows)
    return {"verdicts": {verdict: found[verdict] for verdict in get_args(Verdict)}}


def _read(config: GradeConfig, tasks: Tasks) -> Iterator[Row]:
    from qstep.data import read_responses

    return read_responses(
        config.input,
        task=config.task,
        offset=config.offset,
        limit=config.num_problems,
        need=("gold",),
        accept=tasks.of,
        columns=config.columns,
    )


def _number(config: GradeConfig, tasks: Tasks) -> int:
    """The number of rows to grade. All are read, so a bad one is found before any is graded.

    Raises ValueError if there are none, or one is bad.
    """
    from qstep.data import group_key, read_responses

    rows = sum(1 for _ in _read(config, tasks))
    if not rows:
        every = read_responses(config.input, task=config.task, columns=config.columns)
        problems = len({group_key(row) for row in every})
        reason = f"{problems} problems: give an --offset below that, not {config.offset}" if problems else "no rows"
        raise ValueError(f"{config.input} has {reason}")
    return rows
