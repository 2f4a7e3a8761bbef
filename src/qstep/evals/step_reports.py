"""All measures of a scorer on one step benchmark."""

from __future__ import annotations

import math
from typing import Any, get_args

from scipy.special import logit

from qstep.data import NO_ERROR, group_key, labels_until
from qstep.evals.auc import auc_estimate
from qstep.evals.calibration import calibration
from qstep.evals.first_error import Judgements, first_error_report, position_accuracy, threshold_sweep
from qstep.evals.length import length_report
from qstep.evals.measures import Sweep
from qstep.evals.results import ClassReport, StepReport
from qstep.evals.steps import LabelledSteps, step_auroc
from qstep.scoring.aggregation import aggregate
from qstep.types import Aggregation, Row

_SWEPT = [i / 50 for i in range(1, 50)]
"""The thresholds of sigmoid(Q) at which F1 is reported."""


def judgements_of(rows: list[Row]) -> Judgements:
    """The judgements on scored rows with `first_error`."""
    return Judgements.of(
        [row["q_values"] for row in rows], [row["first_error"] for row in rows], [group_key(row) for row in rows]
    )


def step_report(rows: list[Row], summary: dict[str, Any], threshold: float, *, seed: int = 0) -> StepReport:
    """All measures of one subset of scored rows, at a threshold of Q. `summary` is the summary of their scoring."""
    judged, of_steps = judgements_of(rows), _labelled_steps(rows)
    problems = [group_key(row) for row in rows]
    correct = [row["first_error"] == NO_ERROR for row in rows]
    found = first_error_report(judged, threshold, seed=seed)
    return StepReport(
        responses=len(rows),
        problems=len(set(problems)),
        steps=sum(len(row["q_values"]) for row in rows),
        scored={name: value for name, value in summary.items() if name not in ("separators", "left_out")},
        separators=summary["separators"],
        left_out=summary["left_out"],
        f1=found.f1,
        acc_error=found.acc_error,
        acc_correct=found.acc_correct,
        n_error=found.n_error,
        n_correct=found.n_correct,
        auroc=step_auroc(of_steps, seed=seed),
        calibration=calibration(of_steps.q_values, of_steps.right, of_steps.problems, seed=seed),
        aggregations={
            how: auc_estimate([aggregate(row["q_values"], how) for row in rows], correct, problems, seed=seed)
            for how in get_args(Aggregation)
        },
        length=length_report(
            [row["score"] for row in rows],
            {
                "steps": [len(row["completions"]) for row in rows],
                "characters": [sum(map(len, row["completions"])) for row in rows],
            },
            correct,
            problems,
            seed=seed,
        ),
        by_threshold=_sweep(judged),
        classes=_by_class(rows, threshold, seed),
    )


def _by_class(rows: list[Row], threshold: float, seed: int) -> dict[str, ClassReport] | None:
    """A report for each `classification` that is a string, in the order of the rows; None if there is none."""
    classes: dict[str, list[Row]] = {}
    for row in rows:
        if isinstance(name := row.get("classification"), str):
            classes.setdefault(name, []).append(row)
    return {name: _class_report(of_class, threshold, seed) for name, of_class in classes.items()} or None


def _class_report(rows: list[Row], threshold: float, seed: int) -> ClassReport:
    return ClassReport(
        responses=len(rows),
        found=first_error_report(judgements_of(rows), threshold, seed=seed),
        acc_error_of_position=position_accuracy([row["first_error"] for row in rows], list(map(group_key, rows))),
        auroc=step_auroc(_labelled_steps(rows), seed=seed),
    )


def _labelled_steps(rows: list[Row]) -> LabelledSteps:
    found = LabelledSteps()
    for row in rows:
        found.add(group_key(row), row["q_values"], labels_until(row["first_error"], len(row["q_values"])))
    return found


def _sweep(judged: Judgements) -> Sweep:
    found = threshold_sweep(judged, logit(_SWEPT))
    measured = {name: [None if math.isnan(x) else float(x) for x in values] for name, values in found.items()}
    return Sweep(threshold=_SWEPT, **measured)
