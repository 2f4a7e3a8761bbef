"""DRO (arXiv 2405.19107): the complete response is one action, and V depends on the prompt only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers import PreTrainedTokenizerBase

from qstep.losses import dro_loss
from qstep.models import ModelOptions, PolicyWithValue
from qstep.objectives.batch import GradedBatch
from qstep.objectives.dataset import GroupDataset, Item
from qstep.objectives.graded import by_outcome
from qstep.objectives.objective import Losses, Objective
from qstep.objectives.source import RowsFile
from qstep.objectives.value_function import ValueConfig, ValueFunction
from qstep.objectives.watched import of_values


@dataclass
class DROConfig(ValueConfig):
    """How to train a policy and a value function by DRO (arXiv 2405.19107). The response is one action."""


class DRO(Objective[GradedBatch]):
    """Reads rows with `reward` or `label`."""

    def __init__(self, config: DROConfig, tokenizer: PreTrainedTokenizerBase) -> None:
        self.config, self.value = config, ValueFunction(config, tokenizer)

    def new_model(self, options: ModelOptions) -> PolicyWithValue:
        return self.value.new_model(options)

    def rows(self, source: RowsFile) -> GroupDataset:
        return self.value.rows(source)

    def begin(self, model: PolicyWithValue, train: GroupDataset) -> None:
        self.value.begin(model, train)

    def needs_reference(self, dataset: GroupDataset) -> bool:
        return self.value.needs_reference()

    def learning_rates(self, model: PolicyWithValue) -> dict[nn.Parameter, float]:
        return self.value.learning_rates(model)

    def collate(self, items: list[Item]) -> GradedBatch:
        return self.value.collate(items)

    def losses(self, model: Any, batch: GradedBatch) -> Losses:
        logps, values = model(batch)
        log_ratios = logps if self.config.reference == "uniform" else logps - batch["reference_logps"]
        log_ratios = (log_ratios * batch["response_mask"]).sum(1)
        beta, outcomes = self.config.beta, batch["outcomes"]
        recorded = {
            "logps/ratio": log_ratios,
            "values/mean": values[:, 0],
            **by_outcome(logps, batch, beta),
            **of_values(outcomes - beta * log_ratios, values[:, 0]),
        }
        return Losses(dro_loss(log_ratios, values[:, 0], outcomes, beta), recorded)
