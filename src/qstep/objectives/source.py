"""The source of rows, and its name in errors."""

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
        path: the path of the file.
        argument: the argument in which a user gave the rows in memory, if any. Errors then name it and count from 0, as
            `train_dataset[12]`.
        folder: the temporary folder of rows in memory. It is deleted with the last reference to this object.
    """

    path: Path
    argument: str | None = None
    folder: TemporaryDirectory[str] | None = field(default=None, repr=False, compare=False)

    def __str__(self) -> str:
        return self.argument or str(self.path)

    @property
    def name(self) -> str:
        """Its name in model cards."""
        return f"{self.argument} (in memory)" if self.argument else self.path.name

    def line(self, number: int) -> str:
        """The name of a row, counted from 0, in a message that already names the file."""
        return f"{self.argument}[{number}]" if self.argument else f"line {number + 1}"

    def at(self, number: int) -> str:
        """The name of a row, counted from 0, in an error."""
        return self.line(number) if self.argument else f"{self.path}, {self.line(number)}"

    def error(self, number: int, field: str | None, problem: str) -> ValueError:
        """The error for a row that cannot be used."""
        if self.argument is None:
            return RowError(self.path, number + 1, field, problem)
        counted = re.sub(r"\bline (\d+)", lambda match: self.line(int(match[1]) - 1), problem)
        return ValueError(f"{self.at(number)}{f', field {field!r}' if field else ''}: {counted}")

    def index(self, format: Format, forbidden: Sequence[str] = ()) -> Index:
        """The index of the rows, after a check of each. Called by all processes.

        Raises:
            RowError: a row of a file is bad.
            ValueError: a row in memory is bad, or there are no rows.
        """
        try:
            return first_then_all(lambda: index_rows(self.path, format, forbidden=forbidden))
        except RowError as error:
            if self.argument is None:
                raise
            raise self.error(error.line - 1, error.field, error.problem) from None
