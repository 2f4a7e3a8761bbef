"""Measures of scores in addition to the accuracy of choosing by them: how they rank, and what they correlate with."""

from __future__ import annotations

import math

from qstep.data import has_turns, how_to_add, judged_right, turn_texts
from qstep.evals.auc import auc_estimate, within_problem_auc
from qstep.evals.length import length_report
from qstep.evals.measures import Lengths, Measured
from qstep.types import Row

Responses = list[list[Row]]
"""The `score_facts` of one scorer for each problem and response, in their order."""


def score_facts(row: Row) -> Row:
    """The columns of a scored row that the diagnostics need."""
    steps, completion = row.get("completions"), row["completion"]
    return {
        "id": row["id"],
        "score": row["score"],
        "verdict": row["verdict"],
        "q_values": row.get("q_values"),
        "steps": None if steps is None else len(steps),
        "characters": len("".join(turn_texts(completion)) if has_turns(completion) else completion),
    }


def response_auc(responses: dict[str, Responses], seed: int) -> dict[str, dict[str, Measured | None]]:
    """How well each scorer separates right responses from wrong ones, within a problem and overall."""
    report: dict[str, dict[str, Measured | None]] = {}
    for name, problems in responses.items():
        rows = [(n, row) for n, rows in enumerate(problems) for row in rows if row["verdict"] != "ungradable"]
        scores = [-math.inf if row["score"] is None else row["score"] for _, row in rows]
        right, problem_of = [row["verdict"] == "right" for _, row in rows], [problem for problem, _ in rows]
        report[name] = {
            "response": auc_estimate(scores, right, problem_of, seed=seed),
            "response_within_problem": within_problem_auc(scores, right, problem_of),
        }
    return report


def score_lengths(responses: dict[str, Responses], seed: int) -> dict[str, Lengths]:
    """The relation of each scorer's score to length. Responses without steps have no score, and are left out."""
    report: dict[str, Lengths] = {}
    for name, problems in responses.items():
        rows = [(problem, row) for problem, rows in enumerate(problems) for row in rows if row["score"] is not None]
        lengths = {length: [row[length] for _, row in rows] for length in ("steps", "characters")}
        if None in lengths["steps"]:
            del lengths["steps"]  # rows that were scored elsewhere, without their steps
        if rows:
            verdicts = [judged_right(row) for _, row in rows]
            scores, problem_of = [row["score"] for _, row in rows], [problem for problem, _ in rows]
            report[name] = length_report(scores, lengths, verdicts, problem_of, seed=seed)
    return report


def q_values_of(responses: dict[str, Responses], large: list[bool]) -> dict[str, list[list[list[float]]]]:
    """The Qs of each scorer, by problem, response and step, for the problems that are `large` enough.

    Raises:
        ValueError: a row has no Qs, or there is no scorer.
    """
    if not responses:
        raise ValueError(f"--aggregations needs rows with q_values: {how_to_add('q_values')}")
    for name, problems in responses.items():
        lacking = next((row for rows in problems for row in rows if row["q_values"] is None), None)
        if lacking is not None:
            raise ValueError(
                f"row {lacking['id']!r} of {name} has no q_values, which --aggregations needs: {how_to_add('q_values')}"
            )
    return {
        name: [[row["q_values"] for row in rows] for rows, is_large in zip(problems, large, strict=True) if is_large]
        for name, problems in responses.items()
    }
