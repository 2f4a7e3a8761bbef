"""PQM: a scorer learns to rank steps (arXiv 2410.11287)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated

from transformers import PreTrainedTokenizerBase

from qstep.losses import pqm_ablation_loss, pqm_loss, pqm_theoretical_loss
from qstep.objectives.steps import StepScoring, StepwiseConfig, by_step_labels
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
        stop_at_first_error: read each response only up to and including its first wrong step. The default is false,
            because Eq. 9 also ranks wrong steps among each other.
    """

    stop_at_first_error: bool = False


def pqm(config: RankingConfig, tokenizer: PreTrainedTokenizerBase, name: str) -> StepScoring:
    """The practical loss, Eq. 10."""
    return by_step_labels(config, tokenizer, name, partial(pqm_loss, margin=config.margin), soft=False)


def pqm_theoretical(config: TheoreticalConfig, tokenizer: PreTrainedTokenizerBase, name: str) -> StepScoring:
    """The theoretical loss, Eq. 9, which ranks wrong steps too."""
    return by_step_labels(config, tokenizer, name, partial(pqm_theoretical_loss, margin=config.margin), soft=False)


def pqm_ablation(config: StepwiseConfig, tokenizer: PreTrainedTokenizerBase, name: str) -> StepScoring:
    """The ablation, Eq. 12: only the first wrong step, and no margin."""
    return by_step_labels(config, tokenizer, name, pqm_ablation_loss, soft=False)
