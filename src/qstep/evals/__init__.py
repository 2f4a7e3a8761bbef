"""Rows and scores in, rates with 95 % intervals over problems out."""

from __future__ import annotations

from qstep.evals.accuracy import ProblemAccuracy, accuracy_by_problem, policy_report
from qstep.evals.intervals import mean_estimate, paired_difference, ratio_estimate
from qstep.evals.labels import label_agreement
from qstep.evals.verifiers import (
    ScoredGroup,
    auc,
    best_of_n_curves,
    best_of_n_report,
    within_problem_auc,
)

__all__ = [
    "ProblemAccuracy",
    "ScoredGroup",
    "accuracy_by_problem",
    "auc",
    "best_of_n_curves",
    "best_of_n_report",
    "label_agreement",
    "mean_estimate",
    "paired_difference",
    "policy_report",
    "ratio_estimate",
    "within_problem_auc",
]
