"""What is in the batches of each method, by key and shape."""

from __future__ import annotations

from typing import TYPE_CHECKING, NotRequired

from qstep.models import Batch, StepBatch

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor


class ResponseBatch(Batch):
    """Responses to learn from; the trainer adds both keys to every batch."""

    row_index: NotRequired[Int[Tensor, " B"]]
    """The number of the response's row in its file, from 0."""
    row_weight: NotRequired[Float[Tensor, " B"]]
    """1, or 0 for a response that only keeps this process in step with others."""


class LabelledStepBatch(StepBatch, ResponseBatch):
    """Responses with labels of their steps."""

    step_labels: Float[Tensor, "B S"]
    """1 right, 0 wrong, soft between them, `ABSENT` where there is none."""


class GradedBatch(ResponseBatch):
    """Graded responses."""

    outcomes: Float[Tensor, " B"]
    """The reward of each response."""
    right: Bool[Tensor, " B"]
    reference_logps: NotRequired[Float[Tensor, "B T"]]
    """Log-probabilities of the tokens under the initial policy."""


class RewardedBatch(GradedBatch):
    """Graded responses, each token an action."""

    rewards: Float[Tensor, "B T"]
    behavior_logps: NotRequired[Float[Tensor, "B T"]]
    """Log-probabilities of the tokens under the policy that sampled them."""
