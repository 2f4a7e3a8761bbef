"""KTO: learns from single responses that are right or wrong, without pairs."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from qstep.data import Index, encode_prompt
from qstep.losses import kto_loss
from qstep.models import Batch, PolicyModel, with_prompts
from qstep.objectives.batch import GradedBatch
from qstep.objectives.config import PolicyConfig
from qstep.objectives.dataset import GroupDataset, Item, Reasons
from qstep.objectives.graded import by_outcome, graded_batch
from qstep.objectives.objective import FurtherReference, Losses
from qstep.objectives.responses import PolicyObjective, collate_rows, policy_rows
from qstep.objectives.source import RowsFile
from qstep.processes import gathered, here
from qstep.runs.options import Bounds
from qstep.types import Prompt

if TYPE_CHECKING:
    from jaxtyping import Float, Int

_log = logging.getLogger(__name__)

_MOST_BALANCED = 4 / 3
"""KTO's Eq. 8 advises that right responses weigh from 1 to 4/3 times as much as wrong ones, in sum."""


@dataclass
class KTOConfig(PolicyConfig):
    """How to train a policy by KTO (arXiv 2402.01306) on single responses, right or wrong.

    Each optimizer step estimates the KL from the reference. For this, its responses are put after the prompts of other
    problems. Such a sequence may be longer than max_length.

    Args:
        beta: weight of a change in log-probability, per nat. A greater beta keeps the policy closer to the reference.
        desirable_weight: factor on the losses of right responses. If there are few of them, raise it.
        undesirable_weight: factor on the losses of the others. A run warns unless right responses weigh 1 to 4/3 times
            as much as these in sum, and names the factor that balances them.
    """

    beta: Annotated[float, Bounds(above=0)] = 0.1
    desirable_weight: Annotated[float, Bounds(least=0)] = 1.0
    undesirable_weight: Annotated[float, Bounds(least=0)] = 1.0


class KTOBatch(GradedBatch):
    """Graded responses, and the same responses after the prompts of other problems."""

    mismatched_ids: Int[Tensor, " L"]
    """Each of the other prompts, followed by the group's responses: `input_ids` of the mismatched pairs."""
    mismatched_prompt_lengths: Int[Tensor, " G"]
    mismatched_reference: Float[Tensor, " B"]
    """Log-probabilities of the responses after the other prompts under the initial policy."""


class OtherPrompts:
    """The prompt that each row's response is paired with: the next one in the file, and the first after the last.

    Raises ValueError if all rows have the same prompt.
    """

    def __init__(self, dataset: GroupDataset) -> None:
        self.dataset = dataset
        prompts = dataset.index.table["prompt"][dataset.rows]
        _, first, inverse = np.unique(prompts, return_index=True, return_inverse=True)
        if len(first) == 1:
            raise ValueError(
                f"{dataset.source}: all rows have the same prompt. KTO compares responses with those to other prompts, "
                "so give at least two problems"
            )
        order = np.argsort(first)
        following = np.empty_like(order)
        following[order] = np.roll(order, -1)
        self.row_of: NDArray[np.int64] = np.zeros(len(dataset.index), np.int64)
        self.row_of[dataset.rows] = dataset.rows[first[following[inverse]]]

    def __getitem__(self, number: int) -> Prompt:
        prompt: Prompt = self.dataset.row(int(self.row_of[number]))["prompt"]
        return prompt

    @property
    def key(self) -> str:
        """Identifies the pairing."""
        return hashlib.sha256(self.row_of[self.dataset.rows].tobytes()).hexdigest()


class KTO(PolicyObjective[KTOBatch]):
    """Reads rows with `label` or `reward`. The reference is the policy at the start."""

    def __init__(self, config: KTOConfig, tokenizer: PreTrainedTokenizerBase) -> None:
        self.config, self.tokenizer = config, tokenizer
        self.kl: Tensor | None = None
        self.positions: int | None = None

    def rows(self, source: RowsFile) -> GroupDataset:
        dataset = policy_rows(source, self.config, self.tokenizer, "unpaired", unjudged, asks_right=True)
        dataset.columns["other_prompt"] = OtherPrompts(dataset)
        return dataset

    def begin(self, model: PolicyModel, train: GroupDataset) -> None:
        super().begin(model, train)
        self.positions = model.learned_positions
        if here()[0] == 0:
            right = int((train.index.table["right"][train.rows] == 1).sum())
            self._warn_of_imbalance(train, right, len(train.rows) - right)

    def _warn_of_imbalance(self, train: GroupDataset, right: int, wrong: int) -> None:
        if not right or not wrong:
            _log.warning("%s: all %d responses are %s", train.source, right + wrong, "right" if right else "wrong")
            return
        for_right, for_wrong = self.config.desirable_weight * right, self.config.undesirable_weight * wrong
        if not for_wrong <= for_right <= _MOST_BALANCED * for_wrong:
            _log.warning(
                "%s: %d responses are right and %d wrong, so right ones weigh %.3g in sum and wrong ones %.3g. To "
                "balance them, give --desirable_weight %.3g",
                *(train.source, right, wrong, for_right, for_wrong, for_wrong / right),
            )

    def needs_reference(self, dataset: GroupDataset) -> bool:
        return True

    def further_reference(self, dataset: GroupDataset) -> Mapping[str, FurtherReference]:
        def collate(items: list[Item]) -> Batch:
            return self._after_other_prompts(collate_rows(self.tokenizer, items), items)

        return {"mismatched_logps": FurtherReference(dataset.columns["other_prompt"].key, collate)}

    def _after_other_prompts(self, batch: Batch, items: list[Item]) -> Batch:
        """Raises ValueError if a response after its other prompt is longer than the model's learned positions."""
        other = with_prompts(batch, [encode_prompt(self.tokenizer, item["other_prompt"][0]) for item in items])
        lengths = other["prompt_lengths"][batch["group_index"]] + batch["response_lengths"]
        if self.positions is not None and (lengths > self.positions).any():
            number = int((lengths > self.positions).nonzero()[0])
            places = [where for item in items for where in item["where"]]
            raise ValueError(
                f"{places[number]}: KTO puts the response after the prompt of another problem, which makes "
                f"{int(lengths[number])} tokens, and this model has {self.positions} positions. Leave out long rows "
                f"by a smaller --max_length (such as {self.positions // 2}) and --over_long drop"
            )
        return other

    def collate(self, items: list[Item]) -> KTOBatch:
        graded = graded_batch(self.tokenizer, items)
        other = self._after_other_prompts(graded, items)
        reference = [float(logps.sum(dtype=np.float64)) for item in items for logps in item["mismatched_logps"]]
        return {
            **graded,
            "mismatched_ids": other["input_ids"],
            "mismatched_prompt_lengths": other["prompt_lengths"],
            "mismatched_reference": torch.tensor(reference),
        }

    def begin_step(self, model: Callable[[Batch], Tensor], batches: Iterable[KTOBatch]) -> None:
        """Estimates KL: the mean log-ratio of the step's responses after other prompts, at least 0."""
        total, count = 0.0, 0
        for batch in batches:
            prompts = {"input_ids": batch["mismatched_ids"], "prompt_lengths": batch["mismatched_prompt_lengths"]}
            log_ratios = model({**batch, **prompts}).sum(1) - batch["mismatched_reference"]  # type: ignore[typeddict-item]
            counted = batch["row_weight"] > 0
            total, count = total + float(log_ratios[counted].double().sum()), count + int(counted.sum())
        sums = torch.tensor(gathered((total, count)), dtype=torch.float64).sum(0)
        self.kl = (sums[0] / sums[1]).clamp(min=0).float()

    def losses(self, model: Any, batch: KTOBatch) -> Losses:
        assert self.kl is not None, "begin_step comes before the losses of a step"
        logps, right = model(batch), batch["right"]
        log_ratios = (logps - batch["reference_logps"]).sum(1)
        kl = self.kl.to(log_ratios.device)
        weights = self.config.desirable_weight, self.config.undesirable_weight
        loss = kto_loss(log_ratios, right, kl, self.config.beta, *weights)
        return Losses(loss, {"kl/mismatched": kl, **by_outcome(logps, batch, self.config.beta)})


def unjudged(index: Index) -> Reasons:
    """Leaves out rows with a null label or reward, because nobody knows whether they are right."""
    return {"ungradable": index.table["right"] < 0}
