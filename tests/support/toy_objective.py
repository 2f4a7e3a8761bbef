"""A new objective, as somebody would write one: likelihood in proportion to the reward."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from qstep.data import outcome
from qstep.models import Batch, ModelOptions, PolicyModel
from qstep.objectives import Method
from qstep.objectives.config import GroupConfig
from qstep.objectives.dataset import GroupDataset, Item
from qstep.objectives.graded import ungraded
from qstep.objectives.objective import Losses, Objective
from qstep.objectives.responses import collate_rows, policy_rows
from qstep.objectives.source import RowsFile


@dataclass
class ToyConfig(GroupConfig):
    """How to train a policy by its rewards.

    Args:
        scale: what each reward is multiplied by.
    """

    scale: float = 1.0


class ToyBatch(Batch):
    rewards: Tensor


class Toy(Objective[ToyBatch]):
    def __init__(self, config: ToyConfig, tokenizer: PreTrainedTokenizerBase) -> None:
        self.config, self.tokenizer = config, tokenizer

    def new_model(self, options: ModelOptions) -> PolicyModel:
        return PolicyModel.new(options)

    def rows(self, source: RowsFile) -> GroupDataset:
        return policy_rows(source, self.config, self.tokenizer, "unpaired", ungraded)

    def collate(self, items: list[Item]) -> ToyBatch:
        rewards = torch.tensor([outcome(row) for item in items for row in item["rows"]])
        return {**collate_rows(self.tokenizer, items), "rewards": rewards}

    def losses(self, model: Any, batch: ToyBatch) -> Losses:
        logps = model(batch).sum(dim=1)
        return Losses(-self.config.scale * batch["rewards"] * logps, {"logps/mean": logps})


TOY = Method(
    "toy", "toy", "likelihood in proportion to the reward", "policy", f"{__name__}:ToyConfig", f"{__name__}:Toy"
)
