"""PQM: ranking losses for the Q-values of reasoning steps.

See "Process Reward Model with Q-value Rankings" (arXiv 2410.11287). Its Theorem 3.5 orders the steps of a
trajectory with correct steps c_1..c_m, and then, from the first error on, wrong steps w_1..w_k:

    Q(w_k) < ... < Q(w_1) << Q(question) < Q(c_1) < ... < Q(c_m),     Q(question) = 0.

Each loss is the negative log-likelihood of that order, or a part of it, in the Plackett-Luce model. A *slot*
is the question (slot 0) or a step. The question counts as a correct step before the first. Each slot should rank
above its *rivals*, and the losses differ only in the choice of rivals.

Labels are hard: 1 correct, 0 wrong, -100 absent. The Q-values of absent slots change neither loss nor gradient.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from qstep.losses.precision import masked
from qstep.losses.shapes import check_shapes
from qstep.types import ABSENT


def pqm_loss(
    q_values: Float[Tensor, "B S"], labels: Int[Tensor, "B S"] | Float[Tensor, "B S"], margin: float
) -> Float[Tensor, " B"]:
    """Ranks correct steps above the question and earlier correct ones, and above wrong steps by `margin`.

    The practical loss of PQM (arXiv 2410.11287, Eq. 10); `margin` is its zeta. It is the mean over a trajectory's
    ranked slots, or 0 if there are none. The question is ranked if some step is wrong. Raises ValueError on labels
    other than 1, 0 and -100.

    Example:
        >>> q_values, labels = torch.tensor([[1.0, 2.0, -3.0]]), torch.tensor([[1, 1, 0]])
        >>> qstep.pqm_loss(q_values, labels, margin=4.0)
        tensor([0.9339])
    """
    correct, wrong = _slots(q_values, labels)
    return _plackett_luce(q_values, correct, wrong, margin, _rivals_of_correct(correct, wrong))


def pqm_theoretical_loss(
    q_values: Float[Tensor, "B S"], labels: Int[Tensor, "B S"] | Float[Tensor, "B S"], margin: float
) -> Float[Tensor, " B"]:
    """`pqm_loss` that also ranks each wrong step above later wrong ones (arXiv 2410.11287, Eq. 9).

    Example:
        >>> q_values, labels = torch.tensor([[1.0, -2.0, -3.0]]), torch.tensor([[1, 0, 0]])
        >>> qstep.pqm_theoretical_loss(q_values, labels, margin=4.0)
        tensor([1.4491])
    """
    correct, wrong = _slots(q_values, labels)
    later_wrong = (wrong[:, :, None] & wrong[:, None, :]).triu(1)
    rivals = _rivals_of_correct(correct, wrong) | later_wrong
    return _plackett_luce(q_values, correct, wrong, margin, rivals)


def pqm_ablation_loss(
    q_values: Float[Tensor, "B S"], labels: Int[Tensor, "B S"] | Float[Tensor, "B S"]
) -> Float[Tensor, " B"]:
    """`pqm_loss` with only the first wrong step and without a margin (arXiv 2410.11287, Eq. 12).

    Example:
        >>> q_values, labels = torch.tensor([[1.0, 2.0, -3.0]]), torch.tensor([[1, 1, 0]])
        >>> qstep.pqm_ablation_loss(q_values, labels)
        tensor([0.2624])
    """
    wrong = labels == 0
    not_first = wrong & (wrong.cumsum(dim=1) > 1)
    return pqm_loss(q_values, torch.where(not_first, ABSENT, labels), margin=0.0)


def _slots(
    q_values: Float[Tensor, "B S"], labels: Int[Tensor, "B S"] | Float[Tensor, "B S"]
) -> tuple[Bool[Tensor, "B S+1"], Bool[Tensor, "B S+1"]]:
    """Masks of the correct and of the wrong slots. The question comes first."""
    check_shapes(q_values.shape, "that of q_values", labels=labels)
    correct, wrong = labels == 1, labels == 0
    unknown = ~(correct | wrong | (labels == ABSENT))
    if unknown.any():
        row, step = unknown.nonzero()[0].tolist()
        raise ValueError(
            f"the label of row {row}, step {step} is {labels[row, step].item()}, but ranking losses take hard labels "
            "(1 correct, 0 wrong, -100 absent): threshold soft labels first, or use a classification loss"
        )
    return F.pad(correct, (1, 0), value=True), F.pad(wrong, (1, 0), value=False)


def _rivals_of_correct(correct: Bool[Tensor, "B S+1"], wrong: Bool[Tensor, "B S+1"]) -> Bool[Tensor, "B S+1 S+1"]:
    """`[b, t, j]`: slot t is correct, and slot j is wrong, or correct and earlier. So t should rank above j."""
    earlier_correct = correct[:, None, :].expand(-1, correct.shape[1], -1).tril(-1)
    return correct[:, :, None] & (earlier_correct | wrong[:, None, :])


def _plackett_luce(
    q_values: Float[Tensor, "B S"],
    correct: Bool[Tensor, "B S+1"],
    wrong: Bool[Tensor, "B S+1"],
    margin: float,
    rivals: Bool[Tensor, "B S+1 S+1"],
) -> Float[Tensor, " B"]:
    """Mean over the slots with rivals of `-log[ e^{Q_t} / (e^{Q_t} + sum_j e^{Q_j + margin_j}) ]`.

    It is computed as softplus(logsumexp_j(Q_j + margin_j - Q_t)), so only differences of Q are exponentiated. The
    margin applies to wrong rivals of correct slots.
    """
    q = masked(F.pad(q_values, (1, 0)), correct | wrong)
    across = wrong[:, None, :] & ~wrong[:, :, None]
    gaps = q[:, None, :] - q[:, :, None] + margin * across.to(q.dtype)
    # A slot without rivals has softplus(lowest), which is 0 without gradient.
    nll = F.softplus(gaps.masked_fill(~rivals, torch.finfo(gaps.dtype).min).logsumexp(dim=2))
    return nll.sum(dim=1) / rivals.any(dim=2).sum(dim=1).clamp(min=1)
