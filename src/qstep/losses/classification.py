"""Step-classification losses, the baselines of PQM. A step's Q is the logit of its label.

Labels are hard (1 correct, 0 wrong), soft (a success rate in [0, 1]) or absent (-100). By Lemma 3.6 of
arXiv 2410.11287 these losses are a special case of PQM: that of a deterministic policy, whose Q is the label.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from qstep.losses.precision import masked
from qstep.losses.shapes import check_shapes
from qstep.types import ABSENT


def bce_loss(q_values: Float[Tensor, "B S"], labels: Int[Tensor, "B S"] | Float[Tensor, "B S"]) -> Float[Tensor, " B"]:
    """Binary cross-entropy of sigmoid(Q) with the label, averaged over a trajectory's present steps.

    The result is 0 for a trajectory without present steps. Raises ValueError on labels outside [0, 1] other than -100.

    Example:
        >>> q_values, labels = torch.tensor([[1.0, 2.0, -3.0]]), torch.tensor([[1.0, 0.5, -100]])
        >>> qstep.bce_loss(q_values, labels)
        tensor([0.7201])
    """
    present = _present(q_values, labels)
    q, target = masked(q_values, present), masked(labels, present)
    return _mean(F.binary_cross_entropy_with_logits(q, target.to(q.dtype), reduction="none"), present)


def mse_loss(q_values: Float[Tensor, "B S"], labels: Int[Tensor, "B S"] | Float[Tensor, "B S"]) -> Float[Tensor, " B"]:
    """Squared difference of sigmoid(Q) and the label, averaged over a trajectory's present steps.

    The result is 0 for a trajectory without present steps. Raises ValueError on labels outside [0, 1] other than -100.

    Example:
        >>> q_values, labels = torch.tensor([[1.0, 2.0, -3.0]]), torch.tensor([[1.0, 0.5, -100]])
        >>> qstep.mse_loss(q_values, labels)
        tensor([0.1087])
    """
    present = _present(q_values, labels)
    return _mean((masked(q_values, present).sigmoid() - masked(labels, present)).square(), present)


def orm_loss(q_values: Float[Tensor, "B S"], labels: Int[Tensor, "B S"] | Float[Tensor, "B S"]) -> Float[Tensor, " B"]:
    """`bce_loss` of the last present step only, for an outcome reward model.

    Example:
        >>> q_values, labels = torch.tensor([[1.0, 2.0, -3.0]]), torch.tensor([[1, 1, 0]])
        >>> qstep.orm_loss(q_values, labels)
        tensor([0.0486])
    """
    present = _present(q_values, labels)
    is_last = present & (present.cumsum(dim=1) == present.sum(dim=1, keepdim=True))
    return bce_loss(q_values, torch.where(is_last, labels, ABSENT))


def _present(q_values: Float[Tensor, "B S"], labels: Int[Tensor, "B S"] | Float[Tensor, "B S"]) -> Bool[Tensor, "B S"]:
    check_shapes(q_values.shape, "that of q_values", labels=labels)
    present = labels != ABSENT
    unknown = present & ~((labels >= 0) & (labels <= 1))  # in this form NaN counts as unknown
    if unknown.any():
        row, step = unknown.nonzero()[0].tolist()
        raise ValueError(
            f"the label of row {row}, step {step} is {labels[row, step].item()}, but labels are in [0, 1] or -100 "
            "(absent): give success rates, not counts"
        )
    return present


def _mean(per_step: Float[Tensor, "B S"], present: Bool[Tensor, "B S"]) -> Float[Tensor, " B"]:
    return masked(per_step, present).sum(dim=1) / present.sum(dim=1).clamp(min=1)
