"""The responses in a user's table in memory."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from qstep.data import Answers, RowError, numbered_responses, plain_rows
from qstep.types import Row


def responses_of(
    table: Any,
    *,
    task: str,
    need: Sequence[str] = (),
    accept: Callable[[Row], Answers] | None = None,
    columns: Mapping[str, str] | None = None,
) -> tuple[list[Row], list[int]]:
    """The responses in a table as rows (see `qstep.data.rows`), and for each the index of its row in the table.

    Column names and the other arguments are those of `qstep.data.read_responses`. The table is not changed.

    Raises:
        TypeError: this is not a table of rows.
        ValueError: a row is bad. The message names the row and the column.
    """
    numbered = numbered_responses(
        enumerate(plain_rows(table)), Path("<rows>"), task=task, need=need, accept=accept, columns=columns
    )
    try:
        found = list(numbered)
    except RowError as error:
        where = f"rows[{error.line}]" + (f", column {error.field!r}" if error.field else "")
        problem = re.sub(r"\bon line (\d+)", r"in rows[\1]", error.problem)
        raise ValueError(f"{where}: {_as_argument(problem)}") from None
    except ValueError as error:
        raise ValueError(_as_argument(str(error))) from None
    return [row for _, row in found], [place for place, _ in found]


def _as_argument(message: str) -> str:
    """A message with the argument `columns` in place of the option."""
    chosen = re.sub(r"--columns\.(\w+) (\w+)(?= or |, |$| to |:)", r'columns={"\1": "\2"}', message)
    return re.sub(r"--columns\.(\w+)", r'columns["\1"]', chosen)
