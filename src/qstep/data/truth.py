"""1 and 0 as labels: true and false, where a whole column holds nothing else.

`label` may also have 1.0 and 0.0, as pandas writes truth values next to missing ones. In `labels` these are soft.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qstep.data.inputs import line_of
from qstep.data.jsonl import RowError
from qstep.types import Row

_COLUMNS = ("label", "labels")
_KINDS = {int: "integers", bool: "truth values", float: "numbers with a decimal point"}

Firsts = dict[str, dict[str, int]]
"""For each column of labels, the kinds of values in it, each with its first line."""


def with_truth_values(line: int, row: Row, firsts: Firsts) -> Row:
    """A copy of the row, its labels true and false if they are only integers 1 and 0.

    The kinds of its labels as they are written are added to `firsts`. Lines come in ascending order.
    """
    for name in _COLUMNS:
        for value in _values(row.get(name)):
            if (kind := _KINDS[int] if _is_pandas(name, value) else _KINDS.get(type(value))) is not None:
                firsts.setdefault(name, {}).setdefault(kind, line)
    return {**row, **{name: _truth(row[name]) for name in _COLUMNS if _is_binary(name, _values(row.get(name)))}}


def refuse_mixed_kinds(path: Path, firsts: Firsts) -> None:
    """Raises RowError if a column of labels has integers and other values: 1 is true or a number, but not both."""
    for name, kinds in firsts.items():
        if "integers" in kinds and len(kinds) > 1:
            first, second = sorted(kinds, key=lambda kind: kinds[kind])[:2]
            raise RowError(
                path,
                kinds[second],
                name,
                f"has {second}, and there are {first} on {line_of(path, kinds[first])}. 1 and 0 are true and false "
                "only where the whole column has nothing else: write all labels in one way",
            )


def _values(labels: Any) -> list[Any]:
    return [label for label in (labels if isinstance(labels, list) else [labels]) if label is not None]


def _is_binary(name: str, values: list[Any]) -> bool:
    return bool(values) and all((type(value) is int and value in (0, 1)) or _is_pandas(name, value) for value in values)


def _is_pandas(name: str, value: Any) -> bool:
    return name == "label" and type(value) is float and value in (0.0, 1.0)


def _truth(labels: Any) -> Any:
    if isinstance(labels, list):
        return [None if label is None else bool(label) for label in labels]
    return bool(labels)
