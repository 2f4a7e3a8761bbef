"""The accuracies of searches, and the tokens they used."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import expit

from qstep.data import group_key, judged_right, read_groups, read_responses
from qstep.data.columns import shown
from qstep.evals.accuracy import Outcomes, accuracy, named_difference
from qstep.evals.results import ANSWERS, Search, SearchComparison, Tokens
from qstep.evals.verifiers import votes_of_finished
from qstep.runs.stage_file import finished
from qstep.search import vote
from qstep.tasks import Tasks, answer_classes_of
from qstep.types import Row

_OF_PROBLEM = ("tokens_generated", "tokens_scored", "too_long", "in_windows", "candidates")
"""The results of a problem's search in its rows. The other entries are settings."""


@dataclass(frozen=True, slots=True)
class Searched:
    """The N candidates of one problem's search, and the tokens it used.

    `correct` [N] is 1, 0, or None for an ungradable candidate. Equal `answers` [N] are equivalent, and None is no
    answer. `scores` [N] are on the scale of a Q. `finished` [N] says whether a candidate ended by itself.
    `chosen` is the index of the search's own answer.
    """

    correct: Sequence[int | None]
    answers: Sequence[Hashable | None]
    scores: Sequence[float]
    finished: Sequence[bool]
    chosen: int
    tokens_generated: int
    tokens_scored: int

    def answered(self, how: str) -> int | None:
        """Whether the answer by one of `ANSWERS` is right, or None if it is ungradable."""
        match how:
            case "chosen":
                return self.correct[self.chosen]
            case "pass":
                return 1 if 1 in self.correct else None if None in self.correct else 0
            case "majority" | "weighted":
                answers = votes_of_finished(self.answers, self.finished)
                won = vote(answers, expit(self.scores) if how == "weighted" else None)
                return self.correct[self.chosen if won is None else answers.index(won)]
            case _:
                raise ValueError(f"unknown way to answer {how!r}: use {', '.join(ANSWERS)}")


def _outcomes(found: Sequence[Searched], how: str) -> Outcomes:
    right = [search.answered(how) for search in found]
    return Outcomes(np.array([r == 1 for r in right], float), np.array([r is not None for r in right], float))


def _tokens(of_problems: Sequence[int]) -> Tokens:
    return Tokens(mean=float(np.mean(of_problems)), max=max(of_problems))


def compare_searches(
    files: Mapping[str, Path], task: str = "math", *, seed: int = 0, provenance: dict[str, Any] | None = None
) -> SearchComparison:
    """Accuracies of graded searches in files, by name, and the tokens they used.

    Candidates that were cut off have no vote if one that ended has an answer. If no candidate has an answer, a vote
    counts the search's own choice. Differences are paired, of what two searches with the same budget chose, the earlier
    named first. Raises ValueError if a file is not a graded search, or if its problems differ from those of the first
    file.
    """
    read = {name: _read(path, task) for name, path in files.items()}
    first = next(iter(read))
    problems = list(read[first][1])
    for name, (_, found) in read.items():
        if differ := found.keys() ^ read[first][1].keys():
            raise ValueError(
                f"{files[name]} and {files[first]} have different problems (only one has {min(differ)[0]!r}): search "
                "the same problems with both"
            )
    searches = {name: _search(how, [found[problem] for problem in problems]) for name, (how, found) in read.items()}
    chosen = {name: _outcomes([found[problem] for problem in problems], "chosen") for name, (_, found) in read.items()}
    differences = [
        named_difference(chosen, a, b, seed=seed)
        for a, b in combinations(searches, 2)
        if _budget(read[a][0]) == _budget(read[b][0])
    ]
    return SearchComparison(
        problems=len(problems),
        searches=searches,
        differences={difference.name: difference for difference in differences},
        provenance=provenance or {},
    )


def _search(how: Row, found: Sequence[Searched]) -> Search:
    """The accuracies and tokens of one search, from its settings and its problems."""
    return Search(
        method=how["method"],
        settings={name: value for name, value in how.items() if name != "method"},
        answers={way: accuracy(_outcomes(found, way)) for way in ANSWERS},
        tokens_generated=_tokens([search.tokens_generated for search in found]),
        tokens_scored=_tokens([search.tokens_scored for search in found]),
        cut_off=float(np.mean([not search.finished[search.chosen] for search in found])),
        unfinished=sum(len(search.finished) - sum(search.finished) for search in found),
    )


def _budget(how: Row) -> tuple[str, int]:
    name = "width" if how["token_budget"] is None else "token_budget"
    return name, how[name]


def _read(path: Path, task: str) -> tuple[Row, dict[tuple[str, str], Searched]]:
    """The settings of a file's search, and the result for each problem."""
    finished(path)
    how: dict[str, Any] = {}
    found: dict[tuple[str, str], Searched] = {}
    for rows in read_groups(_checked(path, task)):
        spent = {name: value for name, value in rows[0]["search"].items() if name in _OF_PROBLEM}
        of_rows = {name: value for name, value in rows[0]["search"].items() if name not in spent}
        chosen = [i for i, row in enumerate(rows) if row["chosen"]]
        problem = f"{path}: problem {rows[0]['problem_id']!r}"
        if len(rows) != spent["candidates"] or len(chosen) != 1:
            raise ValueError(
                f"{problem} has {len(rows)} rows, {len(chosen)} of them chosen, but its search wrote "
                f"{spent['candidates']} and chose one: give all rows of `qstep search`, graded"
            )
        if (how := how or of_rows) != of_rows:
            raise ValueError(
                f"{problem} was searched with {of_rows}, and others with {how}: give each search its own file"
            )
        found[group_key(rows[0])] = Searched(
            [judged_right(row) for row in rows],
            answer_classes_of(rows, Tasks(task)),
            [-math.inf if row["score"] is None else row["score"] for row in rows],
            [row["finish_reason"] == "stop" for row in rows],
            chosen[0],
            spent["tokens_generated"],
            spent["tokens_scored"],
        )
    if not found:
        raise ValueError(f"{path} has no rows")
    return how, found


def _checked(path: Path, task: str) -> Iterator[Row]:
    """The rows of a graded search. Raises ValueError, naming the row, if one is not."""
    for row in read_responses(path, task=task, accept=Tasks(task).of):
        for column in ("search", "chosen", "score", "finish_reason", "verdict"):
            if column not in row:
                command = "grade" if column == "verdict" else "search"
                raise ValueError(f"{path}: row {row['id']!r} has no {column}: run `qstep {command}` on the file first")
        if not _is_of_search(row["search"]):
            raise ValueError(
                f"{path}: row {row['id']!r} has {shown(row['search'])} as its search. Give the rows as `qstep search` "
                "wrote them, graded"
            )
        yield row


def _is_of_search(how: Any) -> bool:
    """Whether a value is what `qstep search` writes: the settings, and the counts of tokens and candidates."""
    if not isinstance(how, dict) or not {"method", "width", "token_budget"} <= how.keys():
        return False
    return all(type(how.get(name)) is int for name in ("tokens_generated", "tokens_scored", "candidates"))
