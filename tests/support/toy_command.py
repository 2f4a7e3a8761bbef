"""A command of one file, which counts the words of responses."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from qstep.runs.options import CHANGES_NOTHING, Bounds, Options, OutputFile, settings_of
from qstep.runs.runner import Work, in_blocks, write_rows
from qstep.runs.stage_file import finished
from qstep.types import Row


@dataclass(kw_only=True)
class CountConfig(Options):
    """Counts the words of every response.

    Args:
        input: rows with a `completion`.
        output: the JSONL file to write.
        longest: count no further.
        rows_at_once: rows written together.
    """

    input: Path
    output: OutputFile
    longest: Annotated[int, Bounds(least=1)] = 100
    rows_at_once: Annotated[int, Bounds(least=1), CHANGES_NOTHING] = 2


def count(config: CountConfig) -> Path:
    """Runs the command and returns its output."""
    from qstep.data import read_responses

    def counted(row: Row) -> Row:
        return {**row, "words": min(config.longest, len(row["completion"].split()))}

    def work(done: Collection[str]) -> Work:
        rows = (counted(row) for row in read_responses(config.input, task="math") if row["id"] not in done)
        return Work(sum(1 for _ in read_responses(config.input)), in_blocks(rows, config.rows_at_once), _words)

    write_rows(config.output, "count", settings_of(config, input=finished(config.input)), work)
    return config.output


def _words(rows: Iterator[Row]) -> dict[str, int]:
    return {"words": sum(row["words"] for row in rows)}
