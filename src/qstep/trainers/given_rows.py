"""Rows from Python users: a file, a list of dicts, a `datasets.Dataset` or a pandas frame."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypeAlias

from qstep.data import write_whole
from qstep.objectives.source import RowsFile

if TYPE_CHECKING:
    from datasets import Dataset
    from pandas import DataFrame

    Rows: TypeAlias = str | Path | Iterable[Mapping[str, Any]] | Dataset | DataFrame

_NULLABLE = ("label", "reward")
"""Columns in which null means unknown. In any other column of a table, null means that the value is absent."""


def rows_file(rows: Rows | RowsFile, argument: str) -> RowsFile:
    """The rows as a file. Rows in memory are written to a temporary file.

    Args:
        argument: the caller's name for the rows, for errors.

    Raises:
        ValueError: `rows` has another type, or has no rows.
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


def _lines(rows: Any, argument: str) -> Iterator[bytes]:
    for number, row in enumerate(_records(rows, argument)):
        if not isinstance(row, Mapping):
            raise ValueError(f"{argument}[{number}] is a {type(row).__name__}: give a dict, such as {_EXAMPLE}")
        try:
            yield json.dumps(row, default=_plain, ensure_ascii=False).encode() + b"\n"
        except (TypeError, ValueError) as error:  # an object of another kind, or a lone surrogate
            raise ValueError(f"{argument}[{number}] cannot be written as JSON: {error}") from None


_EXAMPLE = '{"prompt": "...", "completion": "..."}'


def _records(rows: Any, argument: str) -> Iterable[Any]:
    """The rows one by one. Rows of a table lose the columns in which they have no value."""
    if isinstance(rows, Mapping):  # a DatasetDict among them
        raise ValueError(f"{argument} is a {type(rows).__name__} of {', '.join(map(str, rows))}: give one of these")
    if hasattr(rows, "to_dict") and hasattr(rows, "columns"):
        return map(_with_values, rows.to_dict("records"))
    if hasattr(rows, "column_names"):
        return map(_with_values, rows)
    if isinstance(rows, Iterable):
        return rows
    raise ValueError(f"{argument} is a {type(rows).__name__}: give a file, a list of dicts, a Dataset or a frame")


def _with_values(row: Mapping[str, Any]) -> dict[str, Any]:
    values = {name: None if _is_missing(value) else value for name, value in row.items()}
    return {name: value for name, value in values.items() if value is not None or name in _NULLABLE}


def _is_missing(value: Any) -> bool:
    """Whether a cell of a frame is empty: NaN, NaT or NA."""
    return (isinstance(value, float) and math.isnan(value)) or type(value).__name__ in ("NAType", "NaTType")


def _plain(value: Any) -> Any:
    """A numpy array or number as a Python value."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is not a JSON value")
