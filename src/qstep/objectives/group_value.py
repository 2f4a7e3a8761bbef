"""V of a prompt from the rewards of its responses, in place of a value network."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from qstep.data.records import have_same_rewards
from qstep.losses import group_values
from qstep.models import ModelOptions, PolicyModel
from qstep.objectives.batch import GradedBatch
from qstep.objectives.dataset import GroupDataset, Item
from qstep.objectives.graded import graded_batch, ungraded, warn_of_unclear_rewards
from qstep.objectives.responses import policy_rows, stop_at_end_of_turn
from qstep.objectives.source import RowsFile
from qstep.objectives.value_function import ValueConfig
from qstep.processes import here

_log = logging.getLogger(__name__)


class GroupValue:
    """A plain policy, and V of each prompt by `group_values`. It has the functions of `ValueFunction`.

    V counts every graded response of the problem in the file. Rows that training leaves out, because they are longer
    than `max_length` or were cut off, count too: the reference sampled them like the others.
    """

    def __init__(self, config: ValueConfig, tokenizer: PreTrainedTokenizerBase) -> None:
        self.config, self.tokenizer = config, tokenizer

    def new_model(self, options: ModelOptions) -> PolicyModel:
        """The policy alone."""
        return PolicyModel.new(options)

    def rows(self, source: RowsFile) -> GroupDataset:
        """The graded rows of a file, with the column `value`."""
        dataset = policy_rows(source, self.config, self.tokenizer, "unpaired", ungraded)
        warn_of_unclear_rewards(dataset)
        table = dataset.index.table
        graded = ~np.isnan(table["outcome"])
        outcomes, problems = torch.from_numpy(table["outcome"][graded]), table["problem"][graded].astype(np.int64)
        values = np.full(len(table), np.nan)
        values[graded] = group_values(outcomes, torch.from_numpy(problems), self.config.beta).numpy()
        dataset.columns["value"] = values
        return dataset

    def begin(self, model: PolicyModel, train: GroupDataset) -> None:
        """Counts the responses whose reward says nothing that V does not say."""
        stop_at_end_of_turn(model, self.tokenizer, train)
        table, rows = train.index.table, train.rows
        still = int(have_same_rewards(table)[rows].sum())
        problems, sizes = np.unique(table["problem"][~np.isnan(table["outcome"])], return_counts=True)
        alone = int(np.isin(table["problem"][rows], problems[sizes == 1]).sum())
        if still and here()[0] == 0:
            _log.warning(
                "%s: %d of %d responses have the same reward as all others of their problem, and %d of these are the "
                "only response. V is their reward, so they teach only to stay close to the reference",
                train.source,
                still,
                len(rows),
                alone,
            )

    def needs_reference(self) -> bool:
        """Whether the losses read the reference's log-probabilities."""
        return self.config.reference == "model"

    def learning_rates(self, model: PolicyModel) -> dict[nn.Parameter, float]:
        """None: all parameters are the policy's."""
        return {}

    def collate(self, items: list[Item]) -> GradedBatch:
        """Responses with their outcomes and V."""
        values = torch.tensor([value for item in items for value in item["value"]], dtype=torch.float32)
        return {**graded_batch(self.tokenizer, items), "prompt_values": values}

    def of_prompts(self, model: Any, batch: GradedBatch) -> tuple[Tensor, Tensor]:
        """The log-probabilities `[B, T]` of the responses, and V `[B]` of their prompts."""
        return model(batch), batch["prompt_values"]
