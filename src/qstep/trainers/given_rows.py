"""Rows from Python users: a file, a list of dicts, a `datasets.Dataset` or a pandas frame."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypeAlias

from qstep.data import plain_rows, write_whole
from qstep.data.jsonl import dump_foreign_row
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
    write_whole(path, _lines(rows, argument))
    if path.stat().st_size == 0:
        raise ValueError(f"{argument} has no rows")
    return RowsFile(path, argument, folder)


def _lines(rows: Rows, argument: str) -> Iterator[bytes]:
    for number, row in enumerate(plain_rows(rows, argument)):
        try:
            yield dump_foreign_row(row) + b"\n"
        except ValueError as error:  # an object of another kind, an infinity, or a lone surrogate
            raise ValueError(f"{argument}[{number}]: {error}") from None
