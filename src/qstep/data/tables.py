"""Converts tables in memory (lists of dicts, `datasets.Dataset`, pandas frames) to rows and back."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from qstep.data.call_arguments import with_own_arguments
from qstep.data.columns import takes_null
from qstep.data.jsonl import dump_foreign_row
from qstep.types import Row

if TYPE_CHECKING:
    from datasets import Dataset
    from pandas import DataFrame

Table = TypeVar("Table", list[Row], "Dataset", "DataFrame")
"""A table of rows: a list of dicts, a `datasets.Dataset` or a pandas `DataFrame`."""


def plain_rows(table: Any, argument: str = "rows") -> Iterator[Row]:
    """Yields copies of a table's rows as JSON's types. Messages call the table by its name `argument`.

    Numbers and arrays of NumPy and torch become Python's. NaN and pandas' missing values become None. If a value is
    None and its column cannot be null, the row does not have the column.

    Raises TypeError for anything but a table of rows.
    """
    if isinstance(table, str | bytes | Path):
        raise TypeError(
            f"{argument} is {str(table)!r}: give a list of dicts, a datasets.Dataset or a pandas DataFrame. "
            "qstep.read_rows(path) reads those of a file"
        )
    if isinstance(table, Mapping):
        raise TypeError(
            f"{argument} is of type {type(table).__name__} with {', '.join(map(str, table))}: give a list of dicts, "
            "[row] for one row, or one split of a DatasetDict"
        )
    is_typed = _is_frame(table) or _is_dataset(table) or _is_of(table, "datasets", "IterableDataset")
    if _is_frame(table):
        table = table.to_dict("records")
    if not isinstance(table, Iterable):
        raise TypeError(
            f"{argument} is of type {type(table).__name__}: give a list of dicts, a datasets.Dataset or a pandas "
            "DataFrame"
        )
    rows = (_plain_row(row, f"{argument}[{place}]") for place, row in enumerate(table))
    return map(with_own_arguments, rows) if is_typed else rows


def json_lines(table: Any, argument: str = "rows") -> Iterator[bytes]:
    """Yields a table's rows as lines of JSON. Raises ValueError, naming row and column, for what JSON cannot hold."""
    for place, row in enumerate(plain_rows(table, argument)):
        try:
            yield dump_foreign_row(row) + b"\n"
        except ValueError as error:  # an object of another kind, an infinity, or a lone surrogate
            raise ValueError(f"{argument}[{place}]: {error}") from None


def table_like(table: Any, rows: list[Row], places: Sequence[int]) -> Any:
    """Rows as a table of the same kind. `places` has, for each row, the index of its row in `table`.

    In a frame, each row keeps the label of that row.
    """
    if _is_frame(table):
        return type(table)(rows, index=table.index.take(list(places)))
    if _is_dataset(table):
        names = dict.fromkeys(name for row in rows for name in row)
        rows = _of_one_type(rows)
        return type(table).from_dict({name: [row.get(name) for row in rows] for name in names})
    return rows


def _of_one_type(rows: list[Row]) -> list[Row]:
    """The rows for a table in which a column has one type, as those of `datasets` have.

    All completions are messages if some are. Arguments of tool calls are JSON text if they have different keys or
    types: `datasets` would give each call the keys of all.
    """
    if any(isinstance(row.get("completion"), list) for row in rows):
        rows = [
            {**row, "completion": [{"role": "assistant", "content": row["completion"]}]}
            if isinstance(row.get("completion"), str)
            else row
            for row in rows
        ]
    for column in ("prompt", "completion"):
        if len({_type(arguments) for row in rows for arguments in _arguments_in(row.get(column))}) > 1:
            rows = [{**row, column: _with_text_arguments(row[column])} if column in row else row for row in rows]
    return rows


def _arguments_in(messages: Any) -> Iterator[Any]:
    for message in messages if isinstance(messages, list) else ():
        for call in message.get("tool_calls", ()):
            yield call.get("function", call).get("arguments")


def _type(value: Any) -> Any:
    """The type of a value, with the names and types of an object's entries."""
    if isinstance(value, dict):
        return frozenset((name, _type(item)) for name, item in value.items())
    return (list, frozenset(map(_type, value))) if isinstance(value, list) else type(value)


def _with_text_arguments(messages: Any) -> Any:
    if not isinstance(messages, list):
        return messages

    def as_text(call: Any) -> Any:
        function = call.get("function", call)
        function = {**function, "arguments": json.dumps(function.get("arguments"), ensure_ascii=False)}
        return {**call, "function": function} if "function" in call else function

    return [
        {**message, "tool_calls": [*map(as_text, message["tool_calls"])]} if "tool_calls" in message else message
        for message in messages
    ]


def _is_frame(table: Any) -> bool:
    return _is_of(table, "pandas", "DataFrame")


def _is_dataset(table: Any) -> bool:
    return _is_of(table, "datasets", "Dataset")


def _is_of(table: Any, library: str, kind: str) -> bool:
    """Whether a table is of a library's class. A library that is not imported has made no table."""
    return library in sys.modules and isinstance(table, getattr(sys.modules[library], kind))


def _plain_row(row: Any, where: str) -> Row:
    if not isinstance(row, Mapping):
        raise TypeError(f"{where} must be a dict, not {type(row).__name__}")
    plain = {str(name): _plain(value) for name, value in row.items()}
    for name, value in plain.items():
        if isinstance(value, float) and math.isinf(value):
            raise ValueError(f"{where}, column {name!r}: is {value}; give a finite number, or None")
    return {name: value for name, value in plain.items() if value is not None or takes_null(name)}


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
