"""What a file of rows shares with a test file: the same problems, near copies of them, and overlaps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qstep.data import (
    Format,
    Index,
    Instruction,
    KnownProblems,
    RowError,
    index_rows,
    numbered_rows,
    place_of,
    problem_text,
)
from qstep.data.naming import chosen_columns, column_of
from qstep.data.records import prompt_hash
from qstep.evals.measures import NAMED, NamedRows, Resemblance, ResemblingRows, SharedRows
from qstep.types import Row

_SHOWN = 160
"""The number of characters of a problem in an example."""


def format_of(path: Path, columns: Mapping[str, str] | None = None) -> Format:
    """The format of a file by its first row's columns: the most informative that fits. `columns`: see `index_rows`."""
    row = next((row for _, row in numbered_rows(path)), {})
    row |= {own: row[column] for own, column in chosen_columns(columns).items() if column in row}
    if row.get("completions") is not None and row.get("labels") is not None:
        return "stepwise"
    return "unpaired" if {"label", "reward"} & row.keys() else "prompt-completion"


def shared_with(index: Index, path: Path) -> SharedRows:
    """What the rows of `index` share with a file, which holds rows or a benchmark's problems."""
    line, first = next(numbered_rows(path), (1, {}))
    if "prompt" in first or not isinstance(first.get(_question_in(path, line, first)), str):
        return shared_rows_of(index, index_rows(path, format_of(path)))

    def questions() -> Iterator[tuple[int, str]]:
        for line, row in numbered_rows(path):
            question = _question_in(path, line, row)
            if not isinstance(row.get(question), str):
                raise RowError(path, line, question, f"is {row.get(question)!r}; give the question as a string")
            yield line, row[question]

    prompts = np.fromiter((prompt_hash(text) for _, text in questions()), "<u8")
    return _shared(index, prompts, questions, lambda line: place_of(path, line), responses=0)


def _question_in(path: Path, line: int, row: Row) -> str:
    """The column with the question of a benchmark's row. Raises RowError if two of them differ."""
    try:
        return column_of(path, line, row, "prompt", ()) or "question"
    except RowError as error:
        advice = f"{error.problem.partition('. ')[0]}. Rename the one that is not the question"
        raise RowError(path, line, error.field, advice) from None


def shared_rows_of(index: Index, other: Index) -> SharedRows:
    """What a file shares with another: problems (by their prompts, not their ids), the rows of these, and responses.

    Responses are compared only if both files have the same format.
    """
    same = index.format == other.format
    responses = np.isin(index.table["response"], np.unique(other.table["response"])) if same else np.zeros(0, bool)
    return _shared(index, other.table["prompt"], lambda: _problems(other), other.place, int(responses.sum()))


def _problems(index: Index) -> Iterator[tuple[int, str]]:
    """The different problems of a file, each with the number of its first row."""
    for number in np.sort(np.unique(index.table["prompt"], return_index=True)[1]).tolist():
        yield number, problem_text(index.row(number)["prompt"])


def _shared(
    index: Index,
    prompts: NDArray[np.uint64],
    texts: Callable[[], Iterable[tuple[int, str]]],
    place: Callable[[int], int | str],
    responses: int,
) -> SharedRows:
    """`texts` are the other file's problems with numbers, and `place` names the line of such a number."""
    ours = index.table["prompt"]
    same = np.isin(ours, prompts)
    rows = np.flatnonzero(same)
    near, over = _resembling(index, same, KnownProblems(texts), place)
    return SharedRows(
        problems=len(np.unique(ours[rows])),
        responses=responses,
        near_copies=near,
        overlaps=over,
        **asdict(NamedRows.of(index, rows)),
    )


def _resembling(
    index: Index, same: NDArray[np.bool_], known: KnownProblems, place: Callable[[int], int | str]
) -> tuple[ResemblingRows, ResemblingRows]:
    """The near copies and the overlaps among the problems that are not the same."""
    instruction = Instruction.of(text for _, text in _problems(index))
    near: list[tuple[int, Resemblance]] = []
    over: list[tuple[int, Resemblance]] = []
    for number, text in _problems(index):
        if not same[number] and (match := known.match(text, instruction)) is not None:
            line, test_line = index.place(number), place(match.line)
            found = Resemblance(line=line, test_line=test_line, problem=text[:_SHOWN], words=match.words)
            (near if match.words is None else over).append((number, found))
    return _rows_of(index, near), _rows_of(index, over)


def _rows_of(index: Index, found: list[tuple[int, Resemblance]]) -> ResemblingRows:
    ours = index.table["prompt"]
    rows = np.flatnonzero(np.isin(ours, ours[[number for number, _ in found]]))
    examples = [example for _, example in found[:NAMED]]
    return ResemblingRows(problems=len(found), examples=examples, **asdict(NamedRows.of(index, rows)))
