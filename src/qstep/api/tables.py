"""Tables in memory: lists of dicts, `datasets.Dataset` and pandas frames become rows, and rows become such a table."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from qstep.data import RowError, numbered_responses, takes_null
from qstep.types import Row

if TYPE_CHECKING:
    from datasets import Dataset
    from pandas import DataFrame

Table = TypeVar("Table", list[Row], "Dataset", "DataFrame")
"""A table of rows: a list of dicts, a `datasets.Dataset` or a pandas `DataFrame`."""


def responses_of(
    table: Any, *, task: str, need: Sequence[str] = (), accept: Callable[[Row], object] | None = None
) -> tuple[list[Row], list[int]]:
    """The responses in a table, one row each as `qstep.data.rows` says, and which row of the table each comes from.

    The names of columns and the other arguments are as in `qstep.data.read_responses`. The table is not changed.

    Raises:
        TypeError: this is no table of rows.
        ValueError: a row is bad. The message names the row and the column.
    """
    numbered = numbered_responses(enumerate(plain_rows(table)), Path("rows"), task=task, need=need, accept=accept)
    try:
        found = list(numbered)
    except RowError as error:
        where = f"rows[{error.line}]" + (f", column {error.field!r}" if error.field else "")
        raise ValueError(f"{where}: {error.problem}") from None
    return [row for _, row in found], [place for place, _ in found]


def plain_rows(table: Any) -> list[Row]:
    """Copies of a table's rows, made of what JSON knows.

    NumPy's and torch's numbers and arrays become Python's. NaN, and what pandas has for a missing value, becomes None.
    A column is left out of a row where it is None and cannot be null.

    Raises TypeError for what is no table of rows.
    """
    if isinstance(table, str | bytes | Path):
        raise TypeError(
            f"rows are {table!r}: give a list of dicts, a datasets.Dataset or a pandas DataFrame. "
            "qstep.read_rows(path) reads those of a file"
        )
    if isinstance(table, Mapping):
        raise TypeError(
            f"rows are of type {type(table).__name__} with {', '.join(map(str, table))}: give a list of dicts, "
            "[row] for one row, or one split of a DatasetDict"
        )
    if _is_frame(table):
        table = table.to_dict("records")
    if not isinstance(table, Iterable):
        raise TypeError(
            f"rows are of type {type(table).__name__}: give a list of dicts, a datasets.Dataset or a pandas DataFrame"
        )
    rows: list[Row] = []
    for place, row in enumerate(table):
        if not isinstance(row, Mapping):
            raise TypeError(f"rows[{place}] is of type {type(row).__name__}, and has to be a dict")
        plain = {str(name): _plain(value) for name, value in row.items()}
        rows.append({name: value for name, value in plain.items() if value is not None or takes_null(name)})
    return rows


def table_like(table: Any, rows: list[Row], places: Sequence[int]) -> Any:
    """Rows as a table of the same kind. `places` says which row of `table` each comes from.

    A frame keeps its index: a row has the label of the one that it comes from.
    """
    if _is_frame(table):
        return type(table)(rows, index=table.index.take(list(places)))
    if _is_dataset(table):
        names = dict.fromkeys(name for row in rows for name in row)
        return type(table).from_dict({name: [row.get(name) for row in rows] for name in names})
    return rows


def _is_frame(table: Any) -> bool:
    return "pandas" in sys.modules and isinstance(table, sys.modules["pandas"].DataFrame)


def _is_dataset(table: Any) -> bool:
    return "datasets" in sys.modules and isinstance(table, sys.modules["datasets"].Dataset)


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if _is_missing(value) else value


def _is_missing(value: Any) -> bool:
    if isinstance(value, float):
        return value != value
    pandas: Any = sys.modules.get("pandas")
    return pandas is not None and (value is pandas.NA or value is pandas.NaT)
