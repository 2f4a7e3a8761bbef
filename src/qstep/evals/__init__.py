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
from qstep.evals.intervals import mean_estimate, ratio_estimate
from qstep.evals.labels import label_agreement
from qstep.evals.searches import ANSWERS, Searched, search_report
from qstep.evals.verifiers import (
    METHODS,
    ScoredGroup,
    auc,
    best_of_n_curves,
    best_of_n_report,
    within_problem_auc,
)

__all__ = [
    "ANSWERS",
    "METHODS",
    "Outcomes",
    "ScoredGroup",
    "Searched",
    "VerdictCounts",
    "accuracy",
    "accuracy_difference",
    "auc",
    "best_of_n_curves",
    "best_of_n_report",
    "label_agreement",
    "mean_estimate",
    "policy_difference",
    "policy_report",
    "ratio_estimate",
    "search_report",
    "verdicts_by_problem",
    "within_problem_auc",
]
