"""PQM: a scorer learns to rank steps (arXiv 2410.11287)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from qstep.losses import pqm_ablation_loss, pqm_loss, pqm_theoretical_loss
from qstep.objectives.labels import check_labels, hard_labels
from qstep.objectives.steps import StepScoring, StepwiseConfig, without_labels
from qstep.runs.options import Bounds


@dataclass
class RankingConfig(StepwiseConfig):
    """How to train a scorer by PQM's ranking (arXiv 2410.11287).

    Args:
        margin: logits by which right steps should exceed wrong ones, zeta in the paper.
    """

    margin: Annotated[float, Bounds(least=0)] = 4.0


@dataclass
class TheoreticalConfig(RankingConfig):
    """How to train a scorer by PQM's theoretical ranking (arXiv 2410.11287, Eq. 9).

    Args:
        stop_at_first_error: read each response only through its first wrong step. The default is false, because Eq. 9
            also ranks wrong steps among each other.
    """

    stop_at_first_error: bool = False


def pqm(config: RankingConfig, tokenizer: PreTrainedTokenizerBase) -> StepScoring:
    """The practical loss, Eq. 10."""
    return _ranking("pqm", config, tokenizer, partial(pqm_loss, margin=config.margin))


def pqm_theoretical(config: TheoreticalConfig, tokenizer: PreTrainedTokenizerBase) -> StepScoring:
    """The theoretical loss, Eq. 9, which ranks wrong steps too."""
    return _ranking("pqm_theoretical", config, tokenizer, partial(pqm_theoretical_loss, margin=config.margin))


def pqm_ablation(config: StepwiseConfig, tokenizer: PreTrainedTokenizerBase) -> StepScoring:
    """The ablation, Eq. 12: only the first wrong step, and no margin."""
    return _ranking("pqm_ablation", config, tokenizer, pqm_ablation_loss)


def _ranking(
    name: str,
    config: StepwiseConfig,
    tokenizer: PreTrainedTokenizerBase,
    loss: Callable[[Tensor, Tensor], Tensor],
) -> StepScoring:
    return StepScoring(
        config,
        tokenizer,
        name,
        loss=loss,
        labels_of=partial(hard_labels, threshold=config.threshold, stop_at_first_error=config.stop_at_first_error),
        check=lambda source, forbidden: check_labels(source, config, forbidden, soft=False),
        leave_out=without_labels,
    )
