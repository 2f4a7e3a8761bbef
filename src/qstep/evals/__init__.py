"""Evaluation: rates with 95 % intervals over problems, from rows and scores."""

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
from qstep.evals.choices import Choices, ScoredTables, judge_choices, read_choices
from qstep.evals.first_error import (
    Judgements,
    choose_threshold,
    first_error_report,
    mean_f1,
    position_accuracy,
    predicted_first_error,
    threshold_sweep,
)
from qstep.evals.intervals import mean_estimate, pooled, ratio_estimate, standard_error
from qstep.evals.labels import label_agreement, read_label_agreement
from qstep.evals.length import length_report
from qstep.evals.result_files import as_json, holds, read_result, structure, write_result
from qstep.evals.results import (
    ANSWERS,
    Audit,
    BestOfN,
    Page,
    PolicyEvaluation,
    RecipeResult,
    SearchComparison,
    StepJudgement,
    StudyAnswer,
)
from qstep.evals.searches import Searched, compare_searches
from qstep.evals.step_benchmarks import StepBenchmark, read_benchmarks, shared_rows
from qstep.evals.step_reports import judgements_of, step_report
from qstep.evals.steps import LabelledSteps, step_auroc, step_auroc_within_problem
from qstep.evals.verifiers import (
    ScoredGroup,
    aggregation_report,
    best_of_n_curves,
    best_of_n_report,
    numbers_to_compare,
)

__all__ = [
    "ANSWERS",
    "Audit",
    "BestOfN",
    "Choices",
    "Judgements",
    "LabelledSteps",
    "Outcomes",
    "Page",
    "PolicyEvaluation",
    "RecipeResult",
    "ScoredGroup",
    "ScoredTables",
    "SearchComparison",
    "Searched",
    "StepBenchmark",
    "StepJudgement",
    "StudyAnswer",
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
    "compare_searches",
    "equal_position_auc",
    "equal_position_within_problem_auc",
    "first_error_report",
    "holds",
    "judge_choices",
    "judgements_of",
    "label_agreement",
    "length_report",
    "mean_estimate",
    "mean_f1",
    "numbers_to_compare",
    "policy_difference",
    "policy_report",
    "pooled",
    "position_accuracy",
    "predicted_first_error",
    "ratio_estimate",
    "read_benchmarks",
    "read_choices",
    "read_label_agreement",
    "read_result",
    "shared_rows",
    "standard_error",
    "step_auroc",
    "step_auroc_within_problem",
    "step_report",
    "structure",
    "threshold_sweep",
    "verdicts_by_problem",
    "within_problem_auc",
    "write_result",
]
