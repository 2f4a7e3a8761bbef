"""Reads gold answers, and refuses a problem that has two."""

from __future__ import annotations

import re
from numbers import Real
from pathlib import Path
from typing import Any, Protocol

from qstep.data.inputs import line_of
from qstep.data.jsonl import RowError
from qstep.data.rows import group_key
from qstep.types import Row

_THOUSANDS = re.compile(r"[-+$]{0,2}\d{1,3}(?:,\d{3})+(?:\.\d+)?")
_CALCULATOR = re.compile(r"<<[^<>]*>>")
_BOX = re.compile(r"\\(?:boxed|fbox)\s*(?:\{|([^\s{}\\$]))")
_BRACE = re.compile(r"\\.|[{}]", re.S)


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


def written_gold(path: Path, line: int, column: str, answer: Any, solution: Any = None) -> tuple[str, str | None]:
    """The gold answer and the worked solution, if there is one. Raises RowError if the value is no answer."""
    gold = str(answer) if isinstance(answer, Real) and not isinstance(answer, bool) else answer
    if isinstance(gold, str) and "####" in gold:
        solution, gold = gold, gold.rpartition("####")[2].strip()
        gold = gold.replace(",", "") if _THOUSANDS.fullmatch(gold) else gold
    if not isinstance(gold, str) or not gold.strip():
        raise RowError(path, line, column, f"is {answer!r}; give the answer as a string or a number")
    return gold.strip(), _CALCULATOR.sub("", solution) if isinstance(solution, str) else None


def boxed_gold(path: Path, line: int, solution: Any) -> str:
    """The content of a solution's last box, up to the matching brace. Raises RowError without one."""
    boxes = [*_BOX.finditer(solution)] if isinstance(solution, str) else []
    if not boxes:
        raise RowError(path, line, "solution", "has no \\boxed{...}; give the answer in a column 'answer'")
    box = boxes[-1]
    if box[1]:  # TeX's argument without braces is one character
        return box[1]
    level = 1
    for brace in _BRACE.finditer(solution, box.end()):
        level += (brace[0] == "{") - (brace[0] == "}")
        if level == 0:
            if content := solution[box.end() : brace.start()].strip():
                return content
            break
    raise RowError(path, line, "solution", "ends with a box that is empty or not closed; give a column 'answer'")
