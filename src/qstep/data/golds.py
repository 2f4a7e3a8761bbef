"""Refuses a problem that has two gold answers."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from qstep.data.jsonl import RowError, line_of
from qstep.data.rows import group_key
from qstep.types import Row


class Answers(Protocol):
    """What this package needs of a task to compare gold answers."""

    def same_answer(self, a: str, b: str) -> bool:
        """Whether two final answers of one problem are the same answer, however written."""
        ...


class Golds:
    """The gold answer of each problem of a file, from its first row that has one."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._first: dict[tuple[str, str], tuple[str, int]] = {}

    def check(self, line: int, row: Row, answers: Answers) -> None:
        """Raises RowError if an earlier row of the same problem has another gold answer."""
        gold = row.get("gold")
        if gold is None:
            return
        first, at = self._first.setdefault(group_key(row), (gold, line))
        if gold != first and not answers.same_answer(first, gold):
            raise RowError(
                self._path,
                line,
                "gold",
                f"is {gold!r}, but the same problem has {first!r} on {line_of(self._path, at)}. Correct one of them, "
                "or give each of two problems its own problem_id",
            )
