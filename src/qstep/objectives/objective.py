"""The interface between a method and the trainer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor, nn

from qstep.models import Batch, ModelOptions, PretrainedModule
from qstep.objectives.dataset import GroupDataset, Item
from qstep.objectives.metrics import derived
from qstep.objectives.source import RowsFile

if TYPE_CHECKING:
    from jaxtyping import Float

AnyBatch = TypeVar("AnyBatch", bound=Batch)

Recorded = Mapping[str, Tensor]
"""Values by their name in the log, such as `logps/ratio`. The log shows their averages."""


class Losses(NamedTuple):
    """The unreduced loss of each trajectory, and further values for the log."""

    per_trajectory: Float[Tensor, " B"]
    recorded: Recorded = MappingProxyType({})


class FurtherReference(NamedTuple):
    """Log-probabilities of the initial policy on other batches than those of the rows.

    key: identifies what `collate` adds to the rows. collate: makes a batch of items, with a response for each row.
    """

    key: str
    collate: Callable[[list[Item]], Batch]


class Objective(Protocol[AnyBatch]):
    """A method of training: its rows, its batches, and the loss of each trajectory.

    A new objective derives from this class and defines `new_model`, `rows`, `collate` and `losses`. The other functions
    have defaults. The trainer divides the sum of losses by the sum of `count_items`, both over an optimizer step.
    """

    def new_model(self, options: ModelOptions) -> PretrainedModule:
        """The model that training starts from."""
        ...

    def rows(self, source: RowsFile) -> GroupDataset:
        """The rows of a file for training or evaluation."""
        ...

    def collate(self, items: list[Item]) -> AnyBatch:
        """Makes a batch of groups from items of a data set."""
        ...

    def losses(self, model: Any, batch: AnyBatch) -> Losses:
        """The losses of a batch from `collate`, to which the trainer added `row_index` and `row_weight`."""
        ...

    def count_items(self, batch: AnyBatch) -> Float[Tensor, " B"]:
        """What each trajectory adds to the divisor of the global loss; one by default."""
        return torch.ones_like(batch["response_lengths"], dtype=torch.float32)

    def metrics(self, means: dict[str, float]) -> dict[str, float]:
        """The metrics for the log, from the means of what `losses` recorded."""
        return derived(means)

    def check(self, source: RowsFile) -> None:
        """Refuses a training file that teaches nothing, before a model is loaded."""
        return

    def begin(self, model: Any, train: GroupDataset) -> None:
        """Prepares the model for the rows, and warns of doubtful rows."""
        return

    def needs_reference(self, dataset: GroupDataset) -> bool:
        """Whether items of these rows carry `reference_logps`, the log-probabilities of the initial policy."""
        return False

    def further_reference(self, dataset: GroupDataset) -> Mapping[str, FurtherReference]:
        """Further columns of items with log-probabilities of the initial policy, if `needs_reference`."""
        return {}

    def learning_rates(self, model: Any) -> dict[nn.Parameter, float]:
        """The parameters that have a learning rate of their own."""
        return {}

    def begin_step(self, model: Any, batches: Iterable[AnyBatch]) -> None:
        """Called without gradients before the first forward pass of each optimizer step, with all its batches: the
        parts of its micro-batches.

        An evaluation counts as one step. All processes call it.
        """
        return

    def end_step(self, step: int) -> Recorded:
        """Called after the last backward pass of each optimizer step. The result is logged."""
        return {}

    def state(self) -> dict[str, Any]:
        """The state of this object for checkpoints, as JSON."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restores what `state` returned. At the start of a run the mapping is empty."""
        return
