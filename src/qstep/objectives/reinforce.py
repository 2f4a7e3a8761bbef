"""REINFORCE on stored responses: raises the likelihood of what is better than the problem's other responses."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from qstep.data.records import have_same_rewards
from qstep.losses import Baseline, group_advantages, reinforce_loss
from qstep.models import PolicyModel
from qstep.objectives.batch import WeightedBatch
from qstep.objectives.dataset import GroupDataset, Item
from qstep.objectives.graded import by_outcome, graded_batch, ungraded, warn_of_unclear_rewards
from qstep.objectives.importance import WEIGHTED, Importance, ImportanceConfig, WeightedObjective
from qstep.objectives.objective import Losses
from qstep.objectives.responses import PolicyObjective, policy_rows
from qstep.objectives.source import RowsFile
from qstep.processes import here
from qstep.runs.options import Bounds

if TYPE_CHECKING:
    from jaxtyping import Float

_log = logging.getLogger(__name__)


@dataclass
class ReinforceConfig(ImportanceConfig):
    """How to train a policy by REINFORCE on stored responses.

    Args:
        baseline: what a response's reward is compared with: the mean reward of the problem's other responses
            (`leave_one_out`, RLOO) or of all of them (`mean`). All graded responses of the file count, in whichever
            batch they are, and also if training leaves them out for their length.
        baseline_shift: is added to the baseline. Below 0, right responses count more than wrong ones (AsymRE). Above 0,
            wrong ones would count more, and the policy would collapse.
        taper: right responses have weight 1, and only the others have importance weights (TOPR).
    """

    baseline: Baseline = "leave_one_out"
    baseline_shift: Annotated[float, Bounds(most=0)] = 0.0
    taper: Annotated[bool, WEIGHTED] = False


class AdvantageBatch(WeightedBatch):
    """Graded responses with their advantages."""

    advantages: Float[Tensor, " B"]
    """The reward of each response less its baseline."""


class Reinforce(WeightedObjective[AdvantageBatch], PolicyObjective[AdvantageBatch]):
    """Reads rows with `reward` or `label`, and with `logps_behavior`."""

    def __init__(self, config: ReinforceConfig, tokenizer: PreTrainedTokenizerBase) -> None:
        self.config, self.tokenizer, self.importance = config, tokenizer, Importance(config, tokenizer)

    def rows(self, source: RowsFile) -> GroupDataset:
        dataset = policy_rows(source, self.config, self.tokenizer, "unpaired", ungraded, asks_right=self.config.taper)
        warn_of_unclear_rewards(dataset)
        table = dataset.index.table
        graded = ~np.isnan(table["outcome"])
        advantages = np.full(len(table), np.nan, np.float32)
        advantages[graded] = group_advantages(
            torch.from_numpy(table["outcome"][graded].astype(np.float32)),
            torch.from_numpy(table["problem"][graded].astype(np.int64)),
            self.config.baseline,
            self.config.baseline_shift,
        ).numpy()
        dataset.columns["advantage"] = advantages
        self.importance.check(dataset)
        return dataset

    def begin(self, model: PolicyModel, train: GroupDataset) -> None:
        super().begin(model, train)
        still = int(((train.columns["advantage"] == 0) & have_same_rewards(train.index.table))[train.rows].sum())
        if still == len(train.rows):
            raise ValueError(
                f"{train.source}: the responses of each problem all have the same reward, so they teach nothing. "
                "reinforce needs problems with different rewards. If each response has a problem_id of its own, drop "
                "that column: responses to the same prompt are then one problem"
            )
        if still and here()[0] == 0:
            _log.warning(
                "%s: %d of %d responses have the same reward as all others of their problem, so they teach nothing",
                train.source,
                still,
                len(train.rows),
            )
        self.importance.begin(model, train)

    def needs_reference(self, dataset: GroupDataset) -> bool:
        return self.importance.needs_reference(dataset)

    def collate(self, items: list[Item]) -> AdvantageBatch:
        graded = graded_batch(self.tokenizer, items)
        rows = [row for item in items for row in item["rows"]]
        advantages = torch.tensor([float(value) for item in items for value in item["advantage"]])
        behavior: Any = self.importance.columns(rows, graded["response_mask"], graded.get("reference_logps"))
        return {**graded, "advantages": advantages, **behavior}

    def losses(self, model: Any, batch: AdvantageBatch) -> Losses:
        logps = model(batch)
        weights = self.importance.weights(model, logps, batch, batch["right"] if self.config.taper else None)
        loss = reinforce_loss(logps, batch["advantages"], batch["response_mask"].bool(), weights)
        return Losses(loss, {"advantages/size": batch["advantages"].abs(), **by_outcome(logps, batch)})
