"""Where rows come from, and what errors call it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from qstep.data import Format, Index, RowError, index_rows
from qstep.processes import first_then_all


@dataclass(frozen=True)
class RowsFile:
    """A JSONL file of rows.

    Args:
        path: where it lies.
        argument: the argument that the rows came in, where a user gave them in memory. Errors then name it and count
            from 0, as `train_dataset[12]`.
        folder: where the file of rows in memory lies, which is deleted with the last reference to this object.
    """

    path: Path
    argument: str | None = None
    folder: TemporaryDirectory[str] | None = field(default=None, repr=False, compare=False)

    def __str__(self) -> str:
        return self.argument or str(self.path)

    @property
    def name(self) -> str:
        """What model cards call it."""
        return f"{self.argument} (in memory)" if self.argument else self.path.name

    def line(self, number: int) -> str:
        """How a message that has named the file names a row, counted from 0."""
        return f"{self.argument}[{number}]" if self.argument else f"line {number + 1}"

    def at(self, number: int) -> str:
        """How an error names a row, counted from 0."""
        return self.line(number) if self.argument else f"{self.path}, {self.line(number)}"

    def error(self, number: int, field: str | None, problem: str) -> ValueError:
        """The error of a row that cannot be used."""
        if self.argument is None:
            return RowError(self.path, number + 1, field, problem)
        counted = re.sub(r"\bline (\d+)", lambda match: self.line(int(match[1]) - 1), problem)
        return ValueError(f"{self.at(number)}{f', field {field!r}' if field else ''}: {counted}")

    def index(self, format: Format, forbidden: Sequence[str] = ()) -> Index:
        """The index of the rows, every one of them checked. Called by all processes.

        Raises:
            RowError: a row of a file is bad.
            ValueError: a row in memory is bad, or there is none.
        """
        try:
            return first_then_all(lambda: index_rows(self.path, format, forbidden=forbidden))
        except RowError as error:
            if self.argument is None:
                raise
            raise self.error(error.line - 1, error.field, error.problem) from None
