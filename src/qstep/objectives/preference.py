"""DPO and IPO: raise the likelihood of the better response of a pair, and lower that of the worse one."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
from transformers import PreTrainedTokenizerBase

from qstep.losses import dpo_loss, ipo_loss, preference_pairs
from qstep.objectives.batch import GradedBatch
from qstep.objectives.config import PolicyConfig
from qstep.objectives.dataset import GroupDataset, Item
from qstep.objectives.graded import graded_batch, kl, ungraded
from qstep.objectives.metrics import split
from qstep.objectives.objective import Losses
from qstep.objectives.pairs import only_in_pairs
from qstep.objectives.responses import PolicyObjective, policy_rows
from qstep.objectives.source import RowsFile
from qstep.processes import here
from qstep.runs.options import AtLeast1, Bounds
from qstep.types import Pairs

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

_log = logging.getLogger(__name__)


@dataclass
class DPOConfig(PolicyConfig):
    """How to train a policy by DPO (arXiv 2305.18290) on pairs of responses to one problem.

    The loss is the mean over all pairs of an optimizer step, so a problem with many pairs counts more than one with
    few. Give --pairs one or best_worst to count all problems alike.

    Args:
        pairs: `all` pairs of a problem's responses with different rewards, a random `one` of these by the seed, or
            `best_worst`: the highest reward against the lowest. Of several highest or lowest, the first in the file is
            taken.
        loss: `sigmoid` for DPO, or `ipo` for IPO (arXiv 2310.12036), which stays closer to the reference if one
            response always wins. IPO divides each log-ratio by its response's tokens, as TRL does.
        beta: weight of a change in log-probability, per nat. A greater beta keeps the policy closer to the reference.
        responses_per_prompt: must be null, because all pairs of a problem come from one batch.
    """

    pairs: Pairs = "all"
    loss: Literal["sigmoid", "ipo"] = "sigmoid"
    beta: Annotated[float, Bounds(above=0)] = 0.1
    responses_per_prompt: AtLeast1 | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.responses_per_prompt is not None:
            raise ValueError(
                f"--responses_per_prompt {self.responses_per_prompt} would divide the responses of a problem, and the "
                "pairs across the parts would be lost. Leave it out. With --pairs one or best_worst, only two "
                "responses of a problem are in a batch"
            )


class DPO(PolicyObjective[GradedBatch]):
    """Reads rows with `reward` or `label`, several to a problem. The reference is the policy at the start."""

    def __init__(self, config: DPOConfig, tokenizer: PreTrainedTokenizerBase) -> None:
        self.config, self.tokenizer = config, tokenizer

    def rows(self, source: RowsFile) -> GroupDataset:
        graded = policy_rows(source, self.config, self.tokenizer, "unpaired", ungraded)
        paired, without = only_in_pairs(graded, self.config.pairs, self.config.seed)
        if without and here()[0] == 0:
            _log.warning(
                "%s: %d of %d problems have no pair, because all their responses have the same reward",
                *(source, without, len(graded)),
            )
        return paired

    def needs_reference(self, dataset: GroupDataset) -> bool:
        return True

    def collate(self, items: list[Item]) -> GradedBatch:
        return graded_batch(self.tokenizer, items)

    def losses(self, model: Any, batch: GradedBatch) -> Losses:
        """Each response has half of the losses of its pairs."""
        logps = model(batch)
        log_ratios = (logps - batch["reference_logps"]).sum(1)
        better, worse = preference_pairs(batch["outcomes"], batch["group_index"])
        if self.config.loss == "ipo":
            scaled = log_ratios / batch["response_mask"].sum(1).clamp(min=1)
            pairs = ipo_loss(scaled[better], scaled[worse], self.config.beta)
        else:
            pairs = dpo_loss(log_ratios[better], log_ratios[worse], self.config.beta)
        halves = torch.zeros_like(log_ratios).index_add(0, better, pairs / 2).index_add(0, worse, pairs / 2)
        rewards, sums = self.config.beta * log_ratios, logps.sum(1)
        return Losses(
            halves,
            {
                **kl(logps, batch),
                **split("rewards", rewards, better, worse),
                **split("logps", sums, better, worse),
                "rewards/accuracies": rewards[better] > rewards[worse],
            },
        )

    def count_items(self, batch: GradedBatch) -> Float[Tensor, " B"]:
        """Half of the pairs that each response is in."""
        both = torch.cat(preference_pairs(batch["outcomes"], batch["group_index"]))
        return torch.bincount(both, minlength=len(batch["outcomes"])) / 2
