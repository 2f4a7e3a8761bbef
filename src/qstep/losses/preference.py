"""Losses on preferences: pairs of a problem's responses (DPO, IPO), and single responses that are right or wrong (KTO).

A log-ratio is log pi/pi_ref of a complete response, the sum over its tokens.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from qstep.losses.precision import at_least_fp32
from qstep.losses.shapes import check_shapes


def preference_pairs(
    rewards: Float[Tensor, " B"], group_index: Int[Tensor, " B"]
) -> tuple[Int[Tensor, " P"], Int[Tensor, " P"]]:
    """All pairs of responses of one group with different rewards: the indices of the better, and of the worse ones.

    Example:
        >>> rewards, group_index = torch.tensor([1.0, 0.0, 0.0, 1.0]), torch.tensor([0, 0, 0, 1])
        >>> qstep.losses.preference_pairs(rewards, group_index)
        (tensor([0, 0]), tensor([1, 2]))
    """
    better, worse = ((group_index[:, None] == group_index) & (rewards[:, None] > rewards)).nonzero().unbind(1)
    return better, worse


def dpo_loss(
    chosen_log_ratios: Float[Tensor, " P"], rejected_log_ratios: Float[Tensor, " P"], beta: float
) -> Float[Tensor, " P"]:
    """`-log sigmoid(beta (log-ratio of the better - log-ratio of the worse response))`, one value a pair.

    See "Direct Preference Optimization" (arXiv 2305.18290, Eq. 7). Raises ValueError if shapes differ.

    Example:
        >>> qstep.losses.dpo_loss(torch.tensor([2.0]), torch.tensor([2.0]), beta=0.1)
        tensor([0.6931])
    """
    check_shapes(chosen_log_ratios.shape, "that of chosen_log_ratios", rejected_log_ratios=rejected_log_ratios)
    return -F.logsigmoid(beta * (at_least_fp32(chosen_log_ratios) - at_least_fp32(rejected_log_ratios)))


def ipo_loss(
    chosen_log_ratios: Float[Tensor, " P"], rejected_log_ratios: Float[Tensor, " P"], beta: float
) -> Float[Tensor, " P"]:
    """`(log-ratio of the better - log-ratio of the worse response - 1 / (2 beta))^2`, one value a pair.

    See "A General Theoretical Paradigm to Understand Learning from Human Preferences" (arXiv 2310.12036, Eq. 17). The
    paper's log-ratios are sums over tokens. The authors' experiments and TRL divide each by its response's tokens, and
    so does `qstep train dpo`. Raises ValueError if shapes differ.

    Example:
        >>> qstep.losses.ipo_loss(torch.tensor([2.0]), torch.tensor([1.0]), beta=0.1)
        tensor([16.])
    """
    check_shapes(chosen_log_ratios.shape, "that of chosen_log_ratios", rejected_log_ratios=rejected_log_ratios)
    return (at_least_fp32(chosen_log_ratios) - at_least_fp32(rejected_log_ratios) - 1 / (2 * beta)).square()


def kto_loss(
    log_ratios: Float[Tensor, " B"],
    desirable: Bool[Tensor, " B"],
    kl: Float[Tensor, ""],
    beta: float,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> Float[Tensor, " B"]:
    """`w sigmoid(beta (kl - log-ratio))` for right responses, `w sigmoid(beta (log-ratio - kl))` for wrong ones.

    See "KTO: Model Alignment as Prospect Theoretic Optimization" (arXiv 2402.01306, Eq. 7). `kl` estimates the
    distance of the policy from the reference; it is at least 0, and has no gradient. Raises ValueError if shapes do
    not fit.

    Example:
        >>> log_ratios, desirable = torch.tensor([1.0, 1.0]), torch.tensor([True, False])
        >>> qstep.losses.kto_loss(log_ratios, desirable, torch.tensor(1.0), beta=0.1, undesirable_weight=2.0)
        tensor([0.5000, 1.0000])
    """
    check_shapes(log_ratios.shape, "that of log_ratios", desirable=desirable)
    check_shapes((), "one number", kl=kl)
    above = beta * (at_least_fp32(log_ratios) - at_least_fp32(kl).detach())
    right, wrong = desirable_weight * torch.sigmoid(-above), undesirable_weight * torch.sigmoid(above)
    return torch.where(desirable, right, wrong)
