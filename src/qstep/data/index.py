"""An index of a JSONL file: where its rows lie and what they hold, found in one pass and kept next to the file.

A training set of a million rows is read once, checked row by row in several processes, and never parsed again
until its content changes: `<name>.<format>.index` holds some 150 bytes a row and is mapped into memory, not read. It
knows nothing of tokenizers, models or methods, so all of these share it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qstep.data.cached import cached_array
from qstep.data.jsonl import RowError, file_fingerprint
from qstep.data.records import COLUMNS, bytes_hash
from qstep.data.row_files import as_lines
from qstep.data.rows import Format, with_verdict
from qstep.data.scanning import checked_line, scan_file
from qstep.data.splitters import splitter_version
from qstep.types import PromptKind, Row

_VERSION = 11


@dataclass(frozen=True)
class Index:
    """A file's rows, in the file's order; row i is line i + 1.

    table: one record of `COLUMNS` a row. separators: how rows say their steps were split (None: they do not).
    roles: the roles of the messages of prompts, `()` for a string. ending: the string that all prompts end with, None
    if all are the same one. fingerprint: SHA-256 of the file. right_at: see `with_verdicts`.
    """

    path: Path
    format: Format
    fingerprint: str
    table: NDArray[np.void]
    separators: list[str | None]
    roles: list[tuple[str, ...]]
    ending: str | None
    right_at: float | None = None
    lines: Path = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "lines", as_lines(self.path))

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

    def row(self, index: int) -> Row:
        """The row of that number, read from the file. Raises RowError if it was changed since."""
        with self.lines.open("rb") as file:
            file.seek(int(self.table["offset"][index]))
            text = file.read(int(self.table["size"][index]))
        if bytes_hash(text) != self.table["content"][index]:
            raise RowError(self.path, index + 1, None, "was changed after the file was indexed; start again")
        row = checked_line(self.path, index + 1, text, self.format, ())
        return row if self.right_at is None else with_verdict(row, self.right_at)

    def with_verdicts(self, right_at: float) -> Index:
        """The index, with rows that have a reward and no label as right from this reward. They get this label."""
        table = np.array(self.table)
        rewarded = ~table["judged"] & ~np.isnan(table["outcome"])
        table["right"][rewarded] = table["outcome"][rewarded] >= right_at
        table["judged"] |= rewarded
        table["truncated"] = table["cut"] & (table["right"] != 1)
        return replace(self, table=table, right_at=right_at)


def index_rows(path: Path, format: Format, *, forbidden: Sequence[str] = ()) -> Index:
    """The index of a JSONL file: the stored one if the content is unchanged, else a new one.

    Every row is checked by `check_row`. The index is stored next to the file. If that folder is read-only it goes to
    `~/.cache/qstep`, and if that is read-only too it stays in memory.

    Args:
        forbidden: strings that no step may contain, such as the scorer's separator, or splitters that may cut no step.

    Raises:
        RowError: a row is bad, a step contains a forbidden string, or two rows have the same id.
        ValueError: the file is empty.
    """
    path = Path(path).resolve()
    fingerprint = file_fingerprint(path)
    separators = [splitter_version(separator) for separator in forbidden]
    key = {"version": _VERSION, "file": fingerprint, "format": format, "forbidden": separators}

    def built() -> tuple[dict[str, Any], NDArray[Any]]:
        table, texts = scan_file(path, format, forbidden)
        _refuse_repeated_ids(path, table, format)
        return texts, table

    texts, table = cached_array(path, f"{format}.index", key, COLUMNS, built)
    roles = [tuple(roles) for roles in texts["roles"]]
    return Index(path, format, fingerprint, table, texts["separators"], roles, texts["ending"])


def _refuse_repeated_ids(path: Path, table: NDArray[np.void], format: Format) -> None:
    order = np.argsort(table["id"], kind="stable")
    hashes = table["id"][order]
    same = np.flatnonzero((hashes[1:] == hashes[:-1]) & (hashes[1:] != 0))
    if not len(same):
        return
    index = Index(path, format, "", table, [], [], None)
    first, second = min(
        ((int(order[i]), int(order[i + 1])) for i in same),
        key=lambda pair: pair[1],
    )
    name = index.row(second)["id"]
    if index.row(first)["id"] == name:
        raise RowError(
            path, second + 1, "id", f"{name!r} occurs twice (first on line {first + 1}). Give each row its own id"
        )
