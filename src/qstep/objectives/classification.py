"""The baselines of PQM: each step is classified or regressed on its own, or the response as a whole."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from qstep.data import Index, refuse_unread
from qstep.losses import bce_loss, mse_loss, orm_loss
from qstep.objectives.dataset import Reasons
from qstep.objectives.labels import check_labels, check_verdicts, soft_labels, verdict_label
from qstep.objectives.steps import ScorerConfig, StepScoring, StepwiseConfig, without_labels


def bce(config: StepwiseConfig, tokenizer: PreTrainedTokenizerBase) -> StepScoring:
    """Cross-entropy of each step, soft labels as they are."""
    return _per_step("bce", config, tokenizer, bce_loss)


def mse(config: StepwiseConfig, tokenizer: PreTrainedTokenizerBase) -> StepScoring:
    """Squared error of each step, soft labels as they are."""
    return _per_step("mse", config, tokenizer, mse_loss)


def orm(config: ScorerConfig, tokenizer: PreTrainedTokenizerBase) -> StepScoring:
    """An outcome reward model: cross-entropy of the verdict on the response, read at its last step."""
    return StepScoring(
        config,
        tokenizer,
        "orm",
        loss=orm_loss,
        labels_of=verdict_label,
        check=check_verdicts,
        leave_out=_without_verdict,
        aggregation="last",
    )


def _per_step(
    name: str,
    config: StepwiseConfig,
    tokenizer: PreTrainedTokenizerBase,
    loss: Callable[[Tensor, Tensor], Tensor],
) -> StepScoring:
    if not config.stop_at_first_error:
        refuse_unread(config, ["threshold"], f"--stop_at_first_error true: {name} takes soft labels as they are")
    return StepScoring(
        config,
        tokenizer,
        name,
        loss=loss,
        labels_of=partial(soft_labels, threshold=config.threshold, stop_at_first_error=config.stop_at_first_error),
        check=lambda path, forbidden: check_labels(path, config, forbidden, soft=True),
        leave_out=without_labels,
    )


def _without_verdict(index: Index) -> Reasons:
    unknown: NDArray[np.bool_] = (index.table["right"] < 0) & np.isnan(index.table["last"])
    return {"no steps": index.table["steps"] <= 0, "neither a verdict nor a label of the last step": unknown}
