"""Results and samples in the layout of lm-evaluation-harness."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from qstep.evals.first_error import predicted_first_error
from qstep.evals.intervals import standard_error
from qstep.evals.measures import PolicyAccuracy
from qstep.evals.results import StepReport
from qstep.types import Row

_VERSION = 1
_AUROC = {
    "auroc": "step",
    "auroc_within_problem": "step_within_problem",
    "auroc_of_position": "position",
    "auroc_at_equal_position": "step_at_equal_position",
}


def harness_results(
    steps: Mapping[str, StepReport], originals: Mapping[str, int], scorer: str, seed: int, now: datetime
) -> dict[str, Any]:
    """The parts of a results file of a step benchmark: metrics with their standard errors by subset.

    `steps` are the reports of the subsets. `originals` counts the rows of each, including those left out.
    """
    results: dict[str, dict[str, Any]] = {}
    for name, subset in steps.items():
        estimates = {
            "f1": subset.f1,
            "acc_error": subset.acc_error,
            "acc_correct": subset.acc_correct,
            **{metric: subset.auroc.get(kind) for metric, kind in _AUROC.items()},
            "ece": subset.calibration.ece,
        }
        results[name] = {"alias": name}
        for metric, estimate in estimates.items():
            results[name][f"{metric},none"] = None if estimate is None else estimate.mean
            results[name][f"{metric}_stderr,none"] = None if estimate is None else standard_error(estimate)
    return {
        "results": results,
        "n-samples": {
            name: {"original": originals[name], "effective": subset.responses} for name, subset in steps.items()
        },
        "n-shot": dict.fromkeys(steps, 0),
        "versions": dict.fromkeys(steps, _VERSION),
        "higher_is_better": {
            name: {metric: metric != "ece" for metric in ("f1", "acc_error", "acc_correct", *_AUROC, "ece")}
            for name in steps
        },
        "config": {"model": "qstep", "model_args": f"scorer={scorer}", "bootstrap_seed": seed},
        "date": now.timestamp(),
    }


def harness_metrics(accuracies: Mapping[str, PolicyAccuracy]) -> dict[str, float | None]:
    """`exact_match,<mode>` and its standard error: a policy's accuracies under the keys of the harness."""
    metrics: dict[str, float | None] = {}
    for mode, accuracy in accuracies.items():
        metrics[f"exact_match,{mode}"] = accuracy.mean
        metrics[f"exact_match_stderr,{mode}"] = None if accuracy.mean is None else standard_error(accuracy)
    return metrics


def harness_samples(rows: list[Row], threshold: float) -> list[Row]:
    """One line for each response, as in lm-evaluation-harness: the row, the prediction, and whether it is right."""
    samples = []
    for number, row in enumerate(rows):
        predicted = predicted_first_error(row["q_values"], threshold)
        samples.append(
            {
                "doc_id": number,
                "doc": {
                    name: value for name, value in row.items() if name not in ("q_values", "score", "step_rewards")
                },
                "target": row["first_error"],
                "resps": [row["q_values"]],
                "filtered_resps": [predicted],
                "filter": "none",
                "metrics": ["acc"],
                "acc": float(predicted == row["first_error"]),
            }
        )
    return samples
