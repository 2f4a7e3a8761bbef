"""An index of files of rows: where rows lie and what they hold, found in one pass and kept next to the first file.

A training set of a million rows is read once, checked row by row in several processes, and never parsed again
until its content changes: `<name>.<format>.index` holds some 150 bytes a row and is mapped into memory, not read. It
knows nothing of tokenizers, models or methods, so all of these share it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qstep.data.cached import cached_array
from qstep.data.inputs import Lines, is_several, line_of, unit_of
from qstep.data.jsonl import RowError, rows_fingerprint
from qstep.data.naming import chosen_columns
from qstep.data.records import COLUMNS, bytes_hash
from qstep.data.rows import Format, with_verdict
from qstep.data.scanning import checked_line, scan_file
from qstep.data.splitters import splitter_version
from qstep.types import PromptKind, Row

_VERSION = 15


@dataclass(frozen=True)
class Index:
    """The rows of a path's files, in their order, numbered from 0.

    table: one record of `COLUMNS` a row. separators: how rows say their steps were split (None: they do not).
    roles: the roles of the messages of prompts, `()` for a string. ending: the string that all prompts end with, None
    if all are the same one. fingerprint: that of the files. columns: the files' columns that were chosen.
    right_at: see `with_verdicts`.
    """

    path: Path
    format: Format
    fingerprint: str
    table: NDArray[np.void]
    separators: list[str | None]
    roles: list[tuple[str, ...]]
    ending: str | None
    columns: Mapping[str, str] | None = None
    right_at: float | None = None
    lines: Lines = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "lines", Lines.of(self.path))

    def __len__(self) -> int:
        return len(self.table)

    @property
    def prompts(self) -> PromptKind:
        """Whether prompts are strings, conversations or some of each."""
        kinds = {bool(roles) for roles in self.roles}
        return "mixed" if len(kinds) == 2 else "messages" if kinds == {True} else "string"

    @property
    def instruction(self) -> str | None:
        """What all prompts end with after a blank line; None if there is no such text or only one prompt."""
        _, _, instruction = (self.ending or "").partition("\n\n")
        return instruction or None

    @property
    def identity(self) -> str:
        """What the rows are: the files, and which of their columns are read."""
        return f"{self.fingerprint} {sorted(self.columns.items())}" if self.columns else self.fingerprint

    @property
    def cached_as(self) -> Path:
        """The path whose folder and name the caches of these rows have."""
        return self.lines.cached_as

    def line(self, index: int) -> int:
        """The number of a row's line, counted from 1 over all files."""
        return int(self.table["line"][index])

    def place(self, index: int) -> int | str:
        """A row's line as results name it: its number, or `3 of b.jsonl` in several files."""
        file, line = self.lines.located(self.line(index))
        return f"{line} of {file.name}" if is_several(self.path) else line

    def where(self, index: int) -> str:
        """A row's file and line, for errors."""
        file, line = self.lines.located(self.line(index))
        return f"{file}, {unit_of(file)} {line}"

    def row(self, index: int) -> Row:
        """The row of that number, read from its file. Raises RowError if it was changed since."""
        text = self.lines.read(int(self.table["offset"][index]), int(self.table["size"][index]))
        line = self.line(index)
        if bytes_hash(text) != self.table["content"][index]:
            raise RowError(self.path, line, None, "was changed after the file was indexed; start again")
        row = checked_line(self.path, line, text, self.format, (), self.columns)
        return row if self.right_at is None else with_verdict(row, self.right_at)

    def with_verdicts(self, right_at: float | None) -> Index:
        """The index in which rows with a reward and no label have the label that the reward is at least `right_at`.

        None changes nothing.
        """
        if right_at is None:
            return self
        table = np.array(self.table)
        rewarded = ~table["judged"] & ~np.isnan(table["outcome"])
        table["right"][rewarded] = table["outcome"][rewarded] >= right_at
        table["judged"] |= rewarded
        table["truncated"] = table["cut"] & (table["right"] != 1)
        return replace(self, table=table, right_at=right_at)


def index_rows(
    path: Path, format: Format, *, forbidden: Sequence[str] = (), columns: Mapping[str, str] | None = None
) -> Index:
    """The index of files of rows: the stored one if the content is unchanged, else a new one.

    Every row is checked by `check_row`. The index is stored next to the first file. If that folder is read-only it goes
    to `~/.cache/qstep`, and if that is read-only too it stays in memory.

    Args:
        forbidden: strings that no step may contain, such as the scorer's separator, or splitters that may cut no step.
        columns: the files' columns by the names of those that qstep reads, such as `{"prompt": "question"}`.

    Raises:
        RowError: a row is bad, a step contains a forbidden string, or two rows have the same id.
        ValueError: the file is empty.
    """
    path = Path(path)
    path = path if is_several(path) else path.resolve() if path.exists() else path
    fingerprint = rows_fingerprint(path)
    separators = [splitter_version(separator) for separator in forbidden]
    key = {"version": _VERSION, "file": fingerprint, "format": format, "forbidden": separators}
    key |= {} if columns is None else {"columns": chosen_columns(columns)}

    def built() -> tuple[dict[str, Any], NDArray[Any]]:
        table, texts = scan_file(path, format, forbidden, columns)
        _refuse_repeated_ids(Index(path, format, "", table, [], [], None, columns))
        return texts, table

    texts, table = cached_array(Lines.of(path).cached_as, f"{format}.index", key, COLUMNS, built)
    roles = [tuple(roles) for roles in texts["roles"]]
    return Index(path, format, fingerprint, table, texts["separators"], roles, texts["ending"], columns)


def _refuse_repeated_ids(index: Index) -> None:
    table = index.table
    order = np.argsort(table["id"], kind="stable")
    hashes = table["id"][order]
    same = np.flatnonzero((hashes[1:] == hashes[:-1]) & (hashes[1:] != 0))
    if not len(same):
        return
    first, second = min(
        ((int(order[i]), int(order[i + 1])) for i in same),
        key=lambda pair: pair[1],
    )
    name = index.row(second)["id"]
    if index.row(first)["id"] == name:
        raise RowError(
            index.path,
            index.line(second),
            "id",
            f"{name!r} occurs twice (first on {line_of(index.path, index.line(first))}). Give each row its own id",
        )
