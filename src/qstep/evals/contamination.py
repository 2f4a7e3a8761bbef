"""What a file of rows shares with a test file: the same problems, near copies of them, and overlaps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
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
    Source,
    index_rows,
    numbered_rows,
    problem_text,
)
from qstep.data.records import prompt_hash
from qstep.evals.measures import NAMED, NamedRows, Resemblance, ResemblingRows, SharedRows

_SHOWN = 160
"""The number of characters of a problem in an example."""


def format_of(path: Path) -> Format:
    """The format of a file by its first row's columns: the most informative that fits."""
    row = next((row for _, row in numbered_rows(path)), {})
    if row.get("completions") is not None and row.get("labels") is not None:
        return "stepwise"
    return "unpaired" if {"label", "reward"} & row.keys() else "prompt-completion"


def shared_with(index: Index, path: Path) -> SharedRows:
    """What the rows of `index` share with a file, which holds rows or a benchmark's problems."""
    source = Source.of(str(path))
    _, first = next(source.rows(), (0, {}))
    question = next((column for column in ("problem", "question") if isinstance(first.get(column), str)), None)
    if "prompt" in first or question is None:
        return shared_rows_of(index, index_rows(path, format_of(path)))

    def questions() -> Iterator[tuple[int, str]]:
        for line, row in source.rows():
            if not isinstance(row.get(question), str):
                raise RowError(source.path, line, question, f"is {row.get(question)!r}; give the question as a string")
            yield line, row[question]

    prompts = np.fromiter((prompt_hash(text) for _, text in questions()), "<u8")
    return _shared(index, prompts, questions, responses=0)


def shared_rows_of(index: Index, other: Index) -> SharedRows:
    """What a file shares with another: problems (by their prompts, not their ids), the rows of these, and responses.

    Responses are compared only if both files have the same format.
    """
    same = index.format == other.format
    responses = np.isin(index.table["response"], np.unique(other.table["response"])) if same else np.zeros(0, bool)
    return _shared(index, other.table["prompt"], lambda: _problems(other), int(responses.sum()))


def _problems(index: Index) -> Iterator[tuple[int, str]]:
    """The different problems of a file, each with the line where it is first."""
    for number in np.sort(np.unique(index.table["prompt"], return_index=True)[1]):
        yield int(number) + 1, problem_text(index.row(int(number))["prompt"])


def _shared(
    index: Index, prompts: NDArray[np.uint64], texts: Callable[[], Iterable[tuple[int, str]]], responses: int
) -> SharedRows:
    ours = index.table["prompt"]
    same = np.isin(ours, prompts)
    rows = np.flatnonzero(same)
    near, over = _resembling(index, same, KnownProblems(texts))
    return SharedRows(
        problems=len(np.unique(ours[rows])),
        responses=responses,
        near_copies=near,
        overlaps=over,
        **asdict(NamedRows.of(rows)),
    )


def _resembling(index: Index, same: NDArray[np.bool_], known: KnownProblems) -> tuple[ResemblingRows, ResemblingRows]:
    """The near copies and the overlaps among the problems that are not the same."""
    instruction = Instruction.of(text for _, text in _problems(index))
    near: list[Resemblance] = []
    over: list[Resemblance] = []
    for line, text in _problems(index):
        if not same[line - 1] and (match := known.match(text, instruction)) is not None:
            found = Resemblance(line=line, test_line=match.line, problem=text[:_SHOWN], words=match.words)
            (near if match.words is None else over).append(found)
    return _rows_of(index, near), _rows_of(index, over)


def _rows_of(index: Index, found: list[Resemblance]) -> ResemblingRows:
    ours = index.table["prompt"]
    rows = np.flatnonzero(np.isin(ours, ours[[example.line - 1 for example in found]]))
    return ResemblingRows(problems=len(found), examples=found[:NAMED], **asdict(NamedRows.of(rows)))
