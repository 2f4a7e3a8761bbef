"""What objectives with a value function share: options, graded rows, the reference, the value's own learning rate."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from qstep.data import Index, is_right, outcome
from qstep.models import ModelOptions, PolicyWithValue, ValueNetwork
from qstep.objectives.batch import GradedBatch
from qstep.objectives.config import GroupConfig
from qstep.objectives.dataset import GroupDataset, Item, Reasons
from qstep.objectives.responses import collate_rows, policy_rows
from qstep.objectives.source import RowsFile
from qstep.processes import here
from qstep.runs.options import Bounds

_log = logging.getLogger(__name__)


@dataclass
class ValueConfig(GroupConfig):
    """How to train a policy and a value function on graded responses.

    Args:
        beta: weight of the KL term against the reference, in units of reward per nat. A wrong response (reward 0)
            has to become `V / beta` nats less likely before its loss is 0; where that is far, right ones go with it.
        reference: `model` (the policy as it was when training began) or `uniform`.
        value: a `separate` value network (the paper), or a linear `head` on the policy's trunk.
        value_learning_rate: of the value function. The default is that of fine-tuning a pretrained network; a small one
            that is trained from scratch takes a hundred times as much.
    """

    beta: Annotated[float, Bounds(above=0)] = 0.2
    reference: Literal["model", "uniform"] = "model"
    value: ValueNetwork = "separate"
    value_learning_rate: float = 1e-5


class ValueFunction:
    """A policy with its value function, and the graded responses that both learn from."""

    def __init__(self, config: ValueConfig, tokenizer: PreTrainedTokenizerBase) -> None:
        self.config, self.tokenizer = config, tokenizer

    def new_model(self, options: ModelOptions) -> PolicyWithValue:
        """The policy with a value function that starts constant."""
        return PolicyWithValue.new_with_value(options, self.config.value)

    def rows(self, source: RowsFile, step_separator: str | None = None) -> GroupDataset:
        """The graded rows of a file."""
        return policy_rows(source, self.config, self.tokenizer, "unpaired", ungraded, step_separator)

    def begin(self, model: PolicyWithValue, train: GroupDataset) -> None:
        """Sets V to the mean reward, and warns where every reward is the same."""
        outcomes = train.index.table["outcome"][train.rows]
        model.start_value(float(outcomes.mean()))
        if outcomes.min() == outcomes.max() and here()[0] == 0:
            _log.warning(
                "%s: the reward of every row is %g, so the outcomes tell no response from another: were the rows "
                "graded as you meant?",
                train.source,
                outcomes[0],
            )

    def needs_reference(self) -> bool:
        """Whether the losses read the reference's log-probabilities."""
        return self.config.reference == "model"

    def learning_rates(self, model: PolicyWithValue) -> dict[nn.Parameter, float]:
        """The value function's own."""
        return dict.fromkeys(model.value_parameters(), self.config.value_learning_rate)

    def collate(self, items: list[Item]) -> GradedBatch:
        """Responses with their outcomes and, where items have them, the reference's log-probabilities."""
        rows = [row for item in items for row in item["rows"]]
        batch: GradedBatch = {
            **collate_rows(self.tokenizer, items),
            "outcomes": torch.tensor([outcome(row) for row in rows]),
            "right": torch.tensor([bool(is_right(row)) for row in rows]),
        }
        if "reference_logps" in items[0]:
            mask = batch["response_mask"].bool()
            values = [logps for item in items for logps in item["reference_logps"]]
            batch["reference_logps"] = torch.zeros(mask.shape)
            batch["reference_logps"][mask] = torch.from_numpy(np.concatenate(values))
        return batch


def ungraded(index: Index) -> Reasons:
    """Leaves out rows whose reward is null: nobody knows whether they are right."""
    return {"ungradable": np.isnan(index.table["outcome"])}


def by_outcome(logps: Tensor, batch: GradedBatch) -> dict[str, Tensor]:
    """The responses' log-probabilities, right ones and others apart."""
    sums, right = logps.sum(1), batch["right"]
    return {"logps/chosen": sums[right], "logps/rejected": sums[~right]}
