"""What a method is to the machine that trains it."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor, nn

from qstep.models import Batch, ModelOptions, PretrainedModule
from qstep.objectives.dataset import GroupDataset, Item
from qstep.objectives.source import RowsFile

if TYPE_CHECKING:
    from jaxtyping import Float

AnyBatch = TypeVar("AnyBatch", bound=Batch)

Recorded = Mapping[str, Tensor]
"""Values by the name under which the log shows their average, such as `logps/ratio`."""


class Losses(NamedTuple):
    """The loss of each trajectory, not reduced, and what else is worth a place in the log."""

    per_trajectory: Float[Tensor, " B"]
    recorded: Recorded = MappingProxyType({})


class Objective(Protocol[AnyBatch]):
    """A method: which rows it learns from, how they become a batch, and the loss of each trajectory in it.

    A new one derives from this class and writes `new_model`, `rows`, `collate` and `losses`. The other methods have
    defaults. The trainer divides the sum of the losses by the sum of `count_items` over the whole optimizer step.
    """

    def new_model(self, options: ModelOptions) -> PretrainedModule:
        """The model that training starts from."""
        ...

    def rows(self, source: RowsFile) -> GroupDataset:
        """The rows of a file that are learned from, or evaluated on."""
        ...

    def collate(self, items: list[Item]) -> AnyBatch:
        """Some items of a data set as a batch of groups."""
        ...

    def losses(self, model: Any, batch: AnyBatch) -> Losses:
        """The losses of a batch that `collate` made; the trainer has added `row_index` and `row_weight`."""
        ...

    def count_items(self, batch: AnyBatch) -> Float[Tensor, " B"]:
        """What each trajectory adds to the number that the global loss is divided by; one by default."""
        return torch.ones_like(batch["response_lengths"], dtype=torch.float32)

    def metrics(self, means: dict[str, float]) -> dict[str, float]:
        """What is logged, given the means of what `losses` recorded."""
        return means

    def check(self, source: RowsFile) -> None:
        """Refuses, before a model is loaded, a training file from which nothing can be learned."""
        return

    def begin(self, model: Any, train: GroupDataset) -> None:
        """Prepares the model for its rows, and warns of what is doubtful in them."""
        return

    def needs_reference(self, dataset: GroupDataset) -> bool:
        """Whether items of these rows carry `reference_logps`, the log-probabilities of the initial policy."""
        return False

    def learning_rates(self, model: Any) -> dict[nn.Parameter, float]:
        """The parameters that have a learning rate of their own."""
        return {}

    def end_step(self, step: int) -> Recorded:
        """Called after the last backward pass of each optimizer step; what it returns is logged."""
        return {}

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps of this object, as JSON."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Takes back what `state` gave; an empty mapping at the start of a run."""
        return
