"""Lists of responses in the cells of a table. Such cells are text, so a list is written as JSON."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from qstep.data.columns import LISTS, NAMES
from qstep.data.inputs import from_table, line_of
from qstep.data.jsonl import RowError
from qstep.data.naming import OF_EACH
from qstep.data.truth import Firsts
from qstep.types import Row

_log = logging.getLogger(__name__)
_KINDS = ("lists", "texts")


def with_lists(path: Path, line: int, row: Row, chosen: Mapping[str, str], firsts: Firsts) -> Row:
    """A row of a table, with a list in place of each cell of a response column that is the JSON of a list of strings.

    A text may be such JSON too. So the cells of a column must be all lists or all texts, and a first list is a warning.
    The kinds of cells are added to `firsts`, each with its first line.

    Raises RowError if a column has both kinds.
    """
    if not from_table(path, line):
        return row
    names = [chosen["completion"]] if "completion" in chosen else NAMES["completion"]
    held = {name: row[name] for name in names if row.get(name)}
    cells = {name: cell for name, cell in held.items() if isinstance(cell, str)}
    lists = {name: items for name, cell in cells.items() if _are_responses(name, items := _list_in(cell))}
    for name in cells.keys() - {*LISTS}:
        kinds = firsts.setdefault(name, {})
        if name in lists and not kinds:
            _log.warning("%s: the cells of %r are JSON lists, so each entry is read as a response", path, name)
        kinds.setdefault(_KINDS[name not in lists], line)
        if len(kinds) > 1:
            other = _KINDS[name in lists]
            raise RowError(
                path,
                line,
                name,
                f"is {'a JSON list' if name in lists else 'a text'}, and there are {other} on "
                f"{line_of(path, kinds[other])}. Write the rows as JSON lines, where a list and a text differ",
            )
    if not lists and cells.keys() == held.keys():
        return row
    return {**row, **{name: items for name in OF_EACH if (items := _list_in(row.get(name)))}, **lists}


def _list_in(cell: Any) -> list[Any]:
    """The list whose JSON a cell is. An empty list for any other value."""
    if isinstance(cell, str) and cell.lstrip().startswith("["):
        with suppress(ValueError, RecursionError):
            return list(json.loads(cell))
    return []


def _are_responses(column: str, items: list[Any]) -> bool:
    """Whether all entries are strings. A column that always has a list may have objects too."""
    kinds = (str, dict) if column in LISTS else str
    return bool(items) and all(isinstance(item, kinds) for item in items)
