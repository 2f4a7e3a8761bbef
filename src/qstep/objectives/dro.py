"""DRO (arXiv 2405.19107): the complete response is one action, and V depends on the prompt only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers import PreTrainedTokenizerBase

from qstep.losses import dro_loss
from qstep.models import ModelOptions, PolicyModel
from qstep.objectives.batch import GradedBatch
from qstep.objectives.dataset import GroupDataset, Item
from qstep.objectives.graded import by_outcome
from qstep.objectives.group_value import GroupValue
from qstep.objectives.metrics import of_values
from qstep.objectives.objective import Losses, Objective
from qstep.objectives.source import RowsFile
from qstep.objectives.value_function import Value, ValueConfig, ValueFunction


@dataclass
class DROConfig(ValueConfig):
    """How to train a policy by DRO (arXiv 2405.19107). The response is one action, and only V of the prompt is needed.

    Args:
        value: V is a `separate` network, a `head` on the policy's trunk, or from the `group`. The group is all graded
            responses to the problem in the file, and V is `beta log mean exp(reward / beta)` of them (A*-PO, arXiv
            2505.20686). This needs no network, but many responses to a problem, sampled from the reference.
    """

    value: Value = "separate"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.value == "group" and self.reference == "uniform":
            raise ValueError(
                "--value group does not work with --reference uniform: V is a mean over responses that the reference "
                "sampled, and nobody samples from the uniform policy. Remove --reference, or give --value head"
            )


class DRO(Objective[GradedBatch]):
    """Reads rows with `reward` or `label`."""

    def __init__(self, config: DROConfig, tokenizer: PreTrainedTokenizerBase) -> None:
        self.config = config
        value_of = GroupValue if config.value == "group" else ValueFunction
        self.value = value_of(config, tokenizer)

    def new_model(self, options: ModelOptions) -> PolicyModel:
        return self.value.new_model(options)

    def rows(self, source: RowsFile) -> GroupDataset:
        return self.value.rows(source)

    def begin(self, model: Any, train: GroupDataset) -> None:
        self.value.begin(model, train)

    def needs_reference(self, dataset: GroupDataset) -> bool:
        return self.value.needs_reference()

    def learning_rates(self, model: Any) -> dict[nn.Parameter, float]:
        return self.value.learning_rates(model)

    def collate(self, items: list[Item]) -> GradedBatch:
        return self.value.collate(items)

    def losses(self, model: Any, batch: GradedBatch) -> Losses:
        logps, values = self.value.of_prompts(model, batch)
        log_ratios = (logps if self.config.reference == "uniform" else logps - batch["reference_logps"]).sum(1)
        beta, outcomes = self.config.beta, batch["outcomes"]
        recorded = {
            "logps/ratio": log_ratios,
            "values/mean": values,
            **by_outcome(logps, batch, beta),
            **of_values(outcomes - beta * log_ratios, values),
        }
        return Losses(dro_loss(log_ratios, values, outcomes, beta), recorded)
