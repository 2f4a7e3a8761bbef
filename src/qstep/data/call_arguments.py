"""Tool calls in tables whose columns have one type (Parquet, Arrow, `datasets`, pandas).

There each call has the arguments of all tools. Those of the other tools are null.
"""

from __future__ import annotations

from typing import Any

from qstep.data.messages import without_nulls


def with_own_arguments(value: Any, in_calls: bool = False) -> Any:
    """A row, or a value of one, whose tool calls have no null arguments. Arguments as JSON text are not changed."""
    if isinstance(value, dict):
        return {
            name: without_nulls(item)
            if in_calls and name == "arguments"
            else with_own_arguments(item, in_calls or name == "tool_calls")
            for name, item in value.items()
        }
    if isinstance(value, list) and value and isinstance(value[0], dict | list):
        return [with_own_arguments(item, in_calls) for item in value]
    return value
