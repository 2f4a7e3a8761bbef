"""Rows and scores in, rates with 95 % intervals over problems out."""

from __future__ import annotations

from qstep.evals.accuracy import (
    Outcomes,
    VerdictCounts,
    accuracy,
    accuracy_difference,
    policy_difference,
    policy_report,
    verdicts_by_problem,
)
from qstep.evals.auc import (
    auc,
    auc_estimate,
    equal_position_auc,
    equal_position_within_problem_auc,
    within_problem_auc,
)
from qstep.evals.calibration import calibration
from qstep.evals.first_error import (
    Judgements,
    choose_threshold,
    first_error_report,
    mean_f1,
    predicted_first_error,
    threshold_sweep,
)
from qstep.evals.intervals import mean_estimate, pooled, ratio_estimate, standard_error
from qstep.evals.labels import label_agreement
from qstep.evals.length import length_report
from qstep.evals.result_files import as_json, holds, read_result, structure, write_result
from qstep.evals.results import ANSWERS
from qstep.evals.searches import Searched, search_report
from qstep.evals.steps import LabelledSteps, step_auroc, step_auroc_within_problem
from qstep.evals.verifiers import METHODS, ScoredGroup, aggregation_report, best_of_n_curves, best_of_n_report

__all__ = [
    "ANSWERS",
    "METHODS",
    "Judgements",
    "LabelledSteps",
    "Outcomes",
    "ScoredGroup",
    "Searched",
    "VerdictCounts",
    "accuracy",
    "accuracy_difference",
    "aggregation_report",
    "as_json",
    "auc",
    "auc_estimate",
    "best_of_n_curves",
    "best_of_n_report",
    "calibration",
    "choose_threshold",
    "equal_position_auc",
    "equal_position_within_problem_auc",
    "first_error_report",
    "holds",
    "label_agreement",
    "length_report",
    "mean_estimate",
    "mean_f1",
    "policy_difference",
    "policy_report",
    "pooled",
    "predicted_first_error",
    "ratio_estimate",
    "read_result",
    "search_report",
    "standard_error",
    "step_auroc",
    "step_auroc_within_problem",
    "structure",
    "threshold_sweep",
    "verdicts_by_problem",
    "within_problem_auc",
    "write_result",
]
