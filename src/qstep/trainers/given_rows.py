"""Rows from Python users: a file, a list of dicts, a `datasets.Dataset` or a pandas frame."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypeAlias

from qstep.data import write_whole
from qstep.data.tables import json_lines
from qstep.objectives.source import RowsFile

if TYPE_CHECKING:
    from datasets import Dataset
    from pandas import DataFrame

    Rows: TypeAlias = str | Path | Iterable[Mapping[str, Any]] | Dataset | DataFrame


def rows_file(rows: Rows | RowsFile, argument: str) -> RowsFile:
    """The rows as a file. Rows in memory are written to a temporary file.

    Args:
        argument: the caller's name for the rows, for errors.

    Raises:
        TypeError: `rows` is not a table of rows.
        ValueError: `rows` has no rows, or one that JSON cannot hold.
    """
    if isinstance(rows, RowsFile):
        return rows
    if isinstance(rows, str | Path):
        return RowsFile(Path(rows))
    folder = TemporaryDirectory(prefix="qstep-")
    path = Path(folder.name) / f"{argument}.jsonl"
    write_whole(path, json_lines(rows, argument))
    if path.stat().st_size == 0:
        raise ValueError(f"{argument} has no rows")
    return RowsFile(path, argument, folder)
