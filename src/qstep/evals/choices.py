"""Reads files of graded and scored responses as problems, and evaluates ways to choose among the responses."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import Any

from qstep.data import canonical_json, group_key, how_to_add, judged_right, read_responses
from qstep.evals.result_files import structure
from qstep.evals.results import BestOfN
from qstep.evals.scores import Responses, q_values_of, response_auc, score_facts, score_lengths
from qstep.evals.steps import LabelledSteps, step_auroc_within_problem
from qstep.evals.verifiers import ScoredGroup, aggregation_report, best_of_n_report, numbers_to_compare
from qstep.tasks import Tasks, answer_classes_of
from qstep.types import Aggregation, Row


@dataclass(frozen=True, slots=True)
class Choices:
    """Problems with their scored responses. `steps` and `responses` map each scorer to its labelled steps and rows."""

    groups: list[ScoredGroup]
    steps: dict[str, LabelledSteps]
    responses: dict[str, Responses]

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
    report = {
        "problems": len(kept),
        "responses": len(verdicts),
        "ungradable_share": verdicts.count(None) / len(verdicts),
        "left_out": {"problems": len(large) - len(kept), "with_fewer_responses_than": max(ns)},
        "ns": ns,
        **best_of_n_report(kept, ns, draws=draws, seed=seed),
        "auc": {
            name: measured | _step_auroc(choices.steps[name])
            for name, measured in response_auc(choices.responses, seed).items()
        },
        "length": score_lengths(choices.responses, seed),
        "provenance": provenance or {},
    }
    if hows:
        q_values = q_values_of(choices.responses, large)
        found = aggregation_report(kept, q_values, ns, hows, draws=draws, seed=seed)
        report["aggregations"] = found["aggregations"]
        report["outcomes"] |= found["outcomes"]
    return structure(BestOfN, report, "best-of-n")


def _step_auroc(steps: LabelledSteps) -> dict[str, Any]:
    """How well a scorer separates right steps from first wrong ones within a problem, if labels are exact."""
    return {name: value for name, value in step_auroc_within_problem(steps).items() if value is not None}


def read_choices(inputs: dict[str, Path] | Path, task: str = "math") -> Choices:
    """The problems of graded files, with the scores of each file that names a scorer.

    The scorer of a single file without a name is called `scorer`, if its rows are scored. A problem is a `problem_id`
    with its prompt. `task` is the task of rows that name none.

    Raises:
        ValueError: the files have different responses or verdicts, or a row is malformed, not graded or not scored.
    """
    if isinstance(inputs, Path):
        first_row = next(read_responses(inputs, task=task), {})
        inputs = {"scorer" if "score" in first_row else "": inputs}
    groups: dict[tuple[str, str], list[Row]] = {}
    scores: dict[str, dict[str, float]] = {}
    steps: dict[str, LabelledSteps] = {}
    golds: dict[tuple[str, str], Any] = {}
    responses: dict[str, dict[str, Row]] = {}
    contents: dict[
        str, bytes
    ] = {}  # of the first scorer's rows, because another model's responses may have the same ids
    for name, path in inputs.items():
        of_scorer, of_steps = scores.setdefault(name, {}), steps.setdefault(name, LabelledSteps())
        for row in read_responses(path, task=task):
            _require(row, path, scored=bool(name))
            score = row["score"] if name else 0.0
            of_scorer[row["id"]] = -math.inf if score is None else score
            content = [row["prompt"], row["completion"], row["verdict"]]
            digest = hashlib.sha256(canonical_json(content)).digest()
            if contents.setdefault(row["id"], digest) != digest:
                raise ValueError(
                    f"{path}: row {row['id']!r} differs from the one in {inputs[next(iter(scores))]} in its prompt, "
                    "completion or verdict. Score the same graded file with each scorer"
                )
            if row.get("label_source") == "exact" and "q_values" in row:
                of_steps.add(group_key(row), row["q_values"], row["labels"])
            if name:
                responses.setdefault(name, {})[row["id"]] = score_facts(row)
            if len(scores) == 1:
                problem = group_key(row)
                if golds.setdefault(problem, row.get("gold")) != row.get("gold"):
                    raise ValueError(
                        f"{path}: row {row['id']!r} has another gold answer than earlier rows with its problem_id and "
                        "prompt: give each problem its own problem_id"
                    )
                slim = {field: row.get(field) for field in ("id", "task", "verdict", "answer")}
                groups.setdefault(problem, []).append(slim)
    if not groups:
        raise ValueError(f"{', '.join(map(str, inputs.values()))}: there are no rows")
    first = next(iter(scores))
    for name, of_scorer in scores.items():
        if of_scorer.keys() != scores[first].keys():
            raise ValueError(f"{inputs[name]} and {inputs[first]} have different rows: score the same file with both")
    scored = [
        ScoredGroup(
            problem_id,
            [judged_right(row) for row in rows],
            answer_classes_of(rows, Tasks(task)),
            {name: [of_scorer[row["id"]] for row in rows] for name, of_scorer in scores.items() if name},
        )
        for (problem_id, _), rows in groups.items()
    ]
    in_groups = {
        name: [[by_id[row["id"]] for row in rows] for rows in groups.values()] for name, by_id in responses.items()
    }
    return Choices(scored, {name: labelled for name, labelled in steps.items() if name}, in_groups)


def _require(row: Row, path: Path, *, scored: bool) -> None:
    """Raises ValueError, naming the row, if it is not graded, or not scored although it must be."""
    if "verdict" not in row:
        raise ValueError(f"{path}: row {row['id']!r} has no verdict: {how_to_add('verdict')}")
    if scored and "score" not in row:
        raise ValueError(
            f"{path}: row {row['id']!r} has no score: {how_to_add('score')}, or give the file without a name "
            f"(--inputs {path}) for results that need no scorer"
        )
