"""The source of rows, and its name in errors."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from qstep.data import Format, Index, RowError, index_rows, line_of, located, named
from qstep.processes import first_then_all


@dataclass(frozen=True)
class RowsFile:
    """A file of rows, or several that one path names (`qstep.data.inputs`).

    Args:
        path: the path.
        argument: the argument in which a user gave the rows in memory, if any. Errors then name it and count from 0, as
            `train_dataset[12]`.
        folder: the temporary folder of rows in memory. It is deleted with the last reference to this object.
        columns: the file's columns that the user chose, by the names of those that qstep reads.
    """

    path: Path
    argument: str | None = None
    folder: TemporaryDirectory[str] | None = field(default=None, repr=False, compare=False)
    columns: Mapping[str, str] | None = None

    def __str__(self) -> str:
        return self.argument or str(self.path)

    @property
    def name(self) -> str:
        """Its name in model cards."""
        return f"{self.argument} (in memory)" if self.argument else named(self.path)

    def line(self, line: int) -> str:
        """The name of a line in a message that already names the file. Lines count from 1, over all files."""
        return f"{self.argument}[{line - 1}]" if self.argument else line_of(self.path, line)

    def at(self, line: int) -> str:
        """The name of a line in an error."""
        if self.argument:
            return self.line(line)
        file, number = located(self.path, line)
        return f"{file}, {line_of(file, number)}"

    def error(self, line: int, field: str | None, problem: str) -> ValueError:
        """The error for a row that cannot be used."""
        if self.argument is None:
            return RowError(self.path, line, field, problem)
        counted = re.sub(r"\bline (\d+)", lambda match: self.line(int(match[1])), problem)
        return ValueError(f"{self.at(line)}{f', field {field!r}' if field else ''}: {counted}")

    def index(self, format: Format, forbidden: Sequence[str] = ()) -> Index:
        """The index of the rows, after a check of each. Called by all processes.

        Raises:
            RowError: a row of a file is bad.
            ValueError: a row in memory is bad, or there are no rows.
        """
        try:
            return first_then_all(lambda: index_rows(self.path, format, forbidden=forbidden, columns=self.columns))
        except RowError as error:
            if self.argument is None:
                raise
            raise self.error(error.line, error.field, error.problem) from None
