"""Graded responses, as the objectives read them that learn from rewards."""

from __future__ import annotations

import logging

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from qstep.data import Index, is_right, outcome
from qstep.losses.divergence import kl_k3
from qstep.objectives.batch import GradedBatch
from qstep.objectives.dataset import GroupDataset, Item, Reasons
from qstep.objectives.metrics import split
from qstep.objectives.responses import collate_rows
from qstep.objectives.verdicts import unclear_rewards
from qstep.processes import here

_log = logging.getLogger(__name__)


def graded_batch(tokenizer: PreTrainedTokenizerBase, items: list[Item]) -> GradedBatch:
    """Responses with their outcomes and, if items have them, the reference's log-probabilities."""
    rows = [row for item in items for row in item["rows"]]
    batch: GradedBatch = {
        **collate_rows(tokenizer, items),
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
    """Leaves out rows with a null reward, because nobody knows whether they are right."""
    return {"ungradable": np.isnan(index.table["outcome"])}


def warn_of_unclear_rewards(dataset: GroupDataset) -> None:
    """Says how `by_outcome` divides responses whose rewards do not say which are right."""
    if here()[0] == 0 and (found := unclear_rewards(dataset.index)):
        _log.warning(
            "%s: the greatest reward is %s. The log divides responses into chosen (a reward of at least 1) and "
            "rejected; give --right_at to divide them elsewhere. It does not change what is learned",
            dataset.source,
            found[1],
        )


def by_outcome(logps: Tensor, batch: GradedBatch, beta: float | None = None) -> dict[str, Tensor]:
    """The log-probabilities of right responses and of all others, and the KL if the reference is known.

    With `beta`, also the implicit rewards: beta times the log-ratio of a response to the reference.
    """
    right = batch["right"]
    found = {**split("logps", logps.sum(1), right, ~right), **kl(logps, batch)}
    if beta is not None and "reference_logps" in batch:
        found |= split("rewards", beta * (logps - batch["reference_logps"]).sum(1), right, ~right)
    return found


def kl(logps: Tensor, batch: GradedBatch) -> dict[str, Tensor]:
    """The KL from the reference at each token, if the reference is known."""
    if "reference_logps" not in batch:
        return {}
    mask = batch["response_mask"].bool()
    return {"kl": kl_k3(logps, batch["reference_logps"], mask)[mask]}
