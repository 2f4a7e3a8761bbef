"""Batches that several methods share: their keys and shapes."""

from __future__ import annotations

from typing import TYPE_CHECKING, NotRequired

from qstep.models import Batch, StepBatch

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor


class ResponseBatch(Batch):
    """Responses to learn from. The trainer adds both keys to every batch."""

    row_index: NotRequired[Int[Tensor, " B"]]
    """The number of the response's row in its file, counted from 0."""
    row_weight: NotRequired[Float[Tensor, " B"]]
    """1, or 0 for a placeholder that only keeps this process in step with others."""


class LabelledStepBatch(StepBatch, ResponseBatch):
    """Responses with labels of their steps."""

    step_labels: Float[Tensor, "B S"]
    """1 is right, 0 is wrong, soft labels are between them, and `ABSENT` marks a missing label."""


class GradedBatch(ResponseBatch):
    """Graded responses."""

    outcomes: Float[Tensor, " B"]
    """The reward of each response."""
    right: Bool[Tensor, " B"]
    reference_logps: NotRequired[Float[Tensor, "B T"]]
    """Log-probabilities of the tokens under the initial policy."""
    prompt_values: NotRequired[Float[Tensor, " B"]]
    """V of the prompt of each response, where no network computes it."""


class WeightedBatch(GradedBatch):
    """Graded responses with importance weights."""

    behavior_logps: NotRequired[Float[Tensor, "B T"]]
    """Log-probabilities of the tokens under the policy that sampled them."""
