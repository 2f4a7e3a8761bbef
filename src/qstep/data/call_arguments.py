"""Tool calls in tables of Arrow (Parquet, Arrow, `datasets`).

A column there has one type, so each call has the arguments of all tools. Those of the other tools are null.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow

    from qstep.types import Row


def with_own_arguments(rows: Iterable[Row], schema: pyarrow.Schema) -> Iterable[Row]:
    """The rows of a table, without the null arguments of tool calls. Arguments as JSON text are not changed."""
    if any("arguments: struct<" in str(field.type) for field in schema):
        return map(_own, rows)
    return rows


def _own(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nulls(item) if name == "arguments" else _own(item) for name, item in value.items()}
    return [_own(item) for item in value] if isinstance(value, list) else value


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nulls(item) for name, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value
