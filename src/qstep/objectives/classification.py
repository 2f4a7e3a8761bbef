"""The baselines of PQM: classification or regression of each step, or of the complete response."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from qstep.data import Index
from qstep.losses import bce_loss, mse_loss, orm_loss
from qstep.objectives.dataset import Reasons
from qstep.objectives.labels import check_verdicts, verdict_label
from qstep.objectives.steps import ScorerConfig, StepScoring, StepwiseConfig, by_step_labels
from qstep.runs.options import ReadIf, Threshold


@dataclass
class ClassificationConfig(StepwiseConfig):
    """How to train a scorer by classification or regression of steps. Soft labels are targets without a threshold.

    Args:
        threshold: a soft label above this counts as right in the search for the first wrong step. With 0, any success
            counts as right.
    """

    threshold: Annotated[Threshold, ReadIf(stop_at_first_error=True)] = 0.0


def bce(config: ClassificationConfig, tokenizer: PreTrainedTokenizerBase, name: str) -> StepScoring:
    """Cross-entropy of each step, with soft labels as targets."""
    return by_step_labels(config, tokenizer, name, bce_loss, soft=True)


def mse(config: ClassificationConfig, tokenizer: PreTrainedTokenizerBase, name: str) -> StepScoring:
    """Squared error of each step, with soft labels as targets."""
    return by_step_labels(config, tokenizer, name, mse_loss, soft=True)


def orm(config: ScorerConfig, tokenizer: PreTrainedTokenizerBase, name: str) -> StepScoring:
    """An outcome reward model: cross-entropy of the verdict on the response, read at its last step."""
    return StepScoring(
        config,
        tokenizer,
        name,
        loss=orm_loss,
        labels_of=verdict_label,
        check=lambda source, forbidden: check_verdicts(source, config, forbidden),
        leave_out=_without_verdict,
        aggregation="last",
    )


def _without_verdict(index: Index) -> Reasons:
    unknown: NDArray[np.bool_] = (index.table["right"] < 0) & np.isnan(index.table["last"])
    return {"no steps": index.table["steps"] <= 0, "neither a verdict nor a label of the last step": unknown}
