"""Reads files of graded and scored responses as problems, and evaluates ways to choose among the responses."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import Any

from qstep.data import canonical_json, group_key, how_to_add, judged_right, read_responses
from qstep.evals.measures import Measured
from qstep.evals.results import BestOfN
from qstep.evals.scores import Responses, q_values_of, response_auc, score_facts, score_lengths
from qstep.evals.steps import LabelledSteps, step_auroc_within_problem
from qstep.evals.verifiers import (
    ScoredGroup,
    aggregation_report,
    best_of_n_report,
    finished_first,
    numbers_to_compare,
)
from qstep.tasks import Tasks, answer_classes_of
from qstep.types import Aggregation, Row


@dataclass(frozen=True, slots=True)
class Choices:
    """Problems with their scored responses, their ids, and how many of each problem's responses were cut off.

    `names` are the `problem_names` of `BestOfN`. `steps` and `responses` map each scorer to its labelled steps and
    rows.
    """

    groups: list[ScoredGroup]
    ids: list[list[str]]
    steps: dict[str, LabelledSteps]
    responses: dict[str, Responses]
    unfinished: list[int]
    names: list[str]

    @property
    def sizes(self) -> list[int]:
        """The number of responses to each problem."""
        return [len(group.correct) for group in self.groups]


def judge_choices(
    choices: Choices,
    ns: Sequence[int] | None = None,
    hows: Sequence[Aggregation] = (),
    *,
    draws: int = 2048,
    seed: int = 0,
    provenance: dict[str, Any] | None = None,
) -> BestOfN:
    """Everything about choosing among n responses, for the `ns` of `numbers_to_compare`.

    Problems with fewer responses than the largest n are left out and counted. Raises ValueError if no problem has
    enough, and as `best_of_n_report` does.
    """
    ns, large = numbers_to_compare(choices.groups, ns)
    kept = [*compress(choices.groups, large)]
    verdicts = [correct for group in kept for correct in group.correct]
    chosen = best_of_n_report(kept, ns, draws=draws, seed=seed)
    aggregations, of_aggregations = (
        aggregation_report(kept, q_values_of(choices.responses, large), ns, hows, draws=draws, seed=seed)
        if hows
        else (None, {})
    )
    return BestOfN(
        problems=len(kept),
        responses=len(verdicts),
        unfinished=sum(compress(choices.unfinished, large)) or None,
        ungradable_share=verdicts.count(None) / len(verdicts),
        left_out={"problems": len(large) - len(kept), "with_fewer_responses_than": max(ns)},
        ns=ns,
        curves=chosen.curves,
        outcomes=chosen.outcomes | of_aggregations,
        problem_names=[*compress(choices.names, large)],
        differences=chosen.differences,
        over_optimisation=chosen.over_optimisation,
        auc={
            name: measured | _step_auroc(choices.steps[name])
            for name, measured in response_auc(choices.responses, seed).items()
        },
        length=score_lengths(choices.responses, seed),
        provenance=provenance or {},
        aggregations=aggregations,
    )


def _step_auroc(steps: LabelledSteps) -> dict[str, Measured | None]:
    """How well a scorer separates right steps from first wrong ones within a problem, if labels are exact."""
    return {name: value for name, value in step_auroc_within_problem(steps).items() if value is not None}


def read_choices(
    inputs: dict[str, Path] | Path, task: str = "math", columns: Mapping[str, str] | None = None
) -> Choices:
    """The problems of graded files, with the scores of each file that names a scorer.

    The scorer of a single file without a name is called `scorer`, if its rows are scored. A problem is a `problem_id`
    with its prompt. `task` is the task of rows that name none. `columns` are those of `qstep.data.read_responses`.

    Raises:
        ValueError: the files have different responses, verdicts or gold answers, or a row is malformed, not graded or
            not scored.
    """
    if isinstance(inputs, Path):
        first_row = next(read_responses(inputs, task=task, columns=columns), {})
        inputs = {"scorer" if "score" in first_row else "": inputs}
    tables = ScoredTables({name: str(path) for name, path in inputs.items()})
    facts: dict[str, dict[str, Row]] = {name: {} for name in inputs}
    steps = {name: LabelledSteps() for name in inputs}
    for name, path in inputs.items():
        for row in read_responses(path, task=task, accept=Tasks(task).of, columns=columns):
            _require(row, path, scored=bool(name))
            tables.add(name, row, f"{path}: row {row['id']!r}")
            if row.get("label_source") == "exact" and "q_values" in row:
                steps[name].add(group_key(row), row["q_values"], row["labels"])
            if name:
                facts[name][row["id"]] = score_facts(row)
    if not tables.problems:
        raise ValueError(f"{', '.join(map(str, inputs.values()))}: there are no rows")
    problems = list(tables.problems.values())
    scorers = [name for name in inputs if name]
    return Choices(
        groups=tables.scored_groups(task),
        ids=[[row["id"] for row in rows] for rows in problems],
        steps={name: steps[name] for name in scorers},
        responses={name: [[facts[name][row["id"]] for row in rows] for rows in problems] for name in scorers},
        unfinished=[sum(row["finish_reason"] == "length" for row in rows) for rows in problems],
        names=_problem_names(tables.problems),
    )


class ScoredTables:
    """The rows of several tables with the same responses, each with the scores of another scorer.

    tables: a name for messages of each scorer's table. The name of the scorer is empty for rows without scores.
    problems: the columns of the first table's rows that a `ScoredGroup` needs, by `group_key`.
    """

    def __init__(self, tables: Mapping[str, str]) -> None:
        self.tables = tables
        self.problems: dict[tuple[str, str], list[Row]] = {}
        self._scores: dict[str, dict[str, float]] = {name: {} for name in tables}
        # Digests of rows, and the tables they are in, because another model's responses may have the same ids.
        self._contents: dict[str, tuple[bytes, str]] = {}

    def add(self, name: str, row: Row, where: str) -> None:
        """Adds a row of a scorer's table. A response without steps, whose score is None, has the lowest score.

        Raises ValueError, which names `where` the row is, if it differs from the same row of another table.
        """
        content = [row["prompt"], row["completion"], row["verdict"], row.get("gold")]
        digest = hashlib.sha256(canonical_json(content)).digest()
        first, table = self._contents.setdefault(row["id"], (digest, self.tables[name]))
        if digest != first:
            raise ValueError(
                f"{where} differs from the same row of {table} in its prompt, completion, verdict or gold answer. "
                "Score the same graded rows with each scorer"
            )
        score = row["score"] if name else 0.0
        self._scores[name][row["id"]] = -math.inf if score is None else score
        if name == next(iter(self.tables)):
            slim = {field: row.get(field) for field in ("id", "task", "verdict", "answer", "finish_reason", "gold")}
            self.problems.setdefault(group_key(row), []).append(slim)

    def scored_groups(self, task: str) -> list[ScoredGroup]:
        """The problems with their scores. Raises ValueError if a table lacks rows of another."""
        (first, table), *others = self.tables.items()
        for name, other in others:
            if self._scores[name].keys() != self._scores[first].keys():
                raise ValueError(
                    f"{other} and {table} have different rows. Score the same graded rows with each scorer"
                )
        return [
            finished_first(
                ScoredGroup(
                    problem_id,
                    [judged_right(row) for row in rows],
                    answer_classes_of(rows, Tasks(task)),
                    {name: [by_id[row["id"]] for row in rows] for name, by_id in self._scores.items() if name},
                ),
                [row["finish_reason"] != "length" for row in rows],
            )
            for (problem_id, _), rows in self.problems.items()
        ]


def _problem_names(groups: Mapping[tuple[str, str], list[Row]]) -> list[str]:
    """A digest of each problem's id and gold answer, which do not depend on the instruction in its prompt.

    The prompt takes the place of a gold answer that is unknown, or the same for several problems with this id.
    """
    with_gold = [canonical_json([problem_id, rows[0]["gold"]]) for (problem_id, _), rows in groups.items()]
    times = Counter(with_gold)
    contents = (
        own if times[own] == 1 and rows[0]["gold"] is not None else canonical_json(key)
        for own, (key, rows) in zip(with_gold, groups.items(), strict=True)
    )
    return [hashlib.sha256(content).hexdigest()[:12] for content in contents]


def _require(row: Row, path: Path, *, scored: bool) -> None:
    """Raises ValueError, naming the row, if it is not graded, or not scored although it must be."""
    if "verdict" not in row:
        raise ValueError(f"{path}: row {row['id']!r} has no verdict: {how_to_add('verdict')}")
    if scored and "score" not in row:
        raise ValueError(
            f"{path}: row {row['id']!r} has no score: {how_to_add('score')}, or give the file without a name "
            f"(--inputs {path}) for results that need no scorer"
        )
