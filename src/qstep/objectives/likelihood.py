"""Supervised learning on all responses (SFT), or on the right ones (rejection sampling)."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from qstep.data import Index, chosen_reward, is_right
from qstep.objectives.batch import ResponseBatch
from qstep.objectives.config import GroupConfig
from qstep.objectives.dataset import GroupDataset, Item, Reasons
from qstep.objectives.metrics import split
from qstep.objectives.objective import Losses
from qstep.objectives.responses import PolicyObjective, collate_rows, policy_rows
from qstep.objectives.source import RowsFile
from qstep.types import ABSENT

if TYPE_CHECKING:
    from jaxtyping import Int

logger = logging.getLogger(__name__)


class JudgedBatch(ResponseBatch):
    """Responses with what is known about them."""

    verdicts: Int[Tensor, " B"]
    """1 is right, 0 is not, and `ABSENT` is unknown."""


class Likelihood(PolicyObjective[JudgedBatch]):
    """Next-token cross-entropy of responses, averaged over all tokens of an optimizer step."""

    def __init__(
        self, config: GroupConfig, tokenizer: PreTrainedTokenizerBase, leave_out: Callable[[Index], Reasons]
    ) -> None:
        self.config, self.tokenizer, self.leave_out = config, tokenizer, leave_out

    def rows(self, source: RowsFile) -> GroupDataset:
        return policy_rows(
            source,
            self.config,
            self.tokenizer,
            "prompt-completion",
            self.leave_out,
            asks_right=self.leave_out is not_right,
        )

    def collate(self, items: list[Item]) -> JudgedBatch:
        verdicts = [is_right(row) for item in items for row in item["rows"]]
        known = [ABSENT if verdict is None else int(verdict) for verdict in verdicts]
        return {**collate_rows(self.tokenizer, items), "verdicts": torch.tensor(known)}

    def losses(self, model: Any, batch: JudgedBatch) -> Losses:
        logps, verdicts = model(batch).sum(dim=1), batch["verdicts"]
        return Losses(-logps, split("logps", logps, verdicts == 1, verdicts == 0))

    def count_items(self, batch: JudgedBatch) -> Int[Tensor, " B"]:
        return batch["response_mask"].sum(dim=1)


def sft(config: GroupConfig, tokenizer: PreTrainedTokenizerBase) -> Likelihood:
    """Supervised fine-tuning on every response, whatever its reward or label."""
    return Likelihood(config, tokenizer, lambda index: {})


def rs(config: GroupConfig, tokenizer: PreTrainedTokenizerBase) -> Likelihood:
    """Rejection sampling: learns from right responses only. It is the baseline of every offline method."""
    return Likelihood(config, tokenizer, not_right)


def not_right(index: Index) -> Reasons:
    """Keeps right responses, and rows without any reward or label (plain demonstrations)."""
    graded, right = index.table["graded"], index.table["right"]
    if not graded.all():
        logger.warning(
            "%d of %d rows have no label or reward, so they count as right. `qstep grade` grades responses%s",
            (~graded).sum(),
            len(graded),
            chosen_reward(index.row(int(np.flatnonzero(~graded)[0]))),
        )
    ungradable: NDArray[np.bool_] = graded & (right < 0)
    return {"ungradable": ungradable, "not right": right == 0}
