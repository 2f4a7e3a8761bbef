"""REINFORCE on stored responses: the complete response is one action, and other responses give the baseline."""

from __future__ import annotations

from typing import Literal

from jaxtyping import Bool, Float, Int
from torch import Tensor

from qstep.losses.precision import at_least_fp32, masked
from qstep.losses.shapes import check_shapes, check_weights

Baseline = Literal["leave_one_out", "mean"]
"""The mean reward of a problem's other responses, or of all of them."""


def group_advantages(
    rewards: Float[Tensor, " B"], group_index: Int[Tensor, " B"], baseline: Baseline, shift: float = 0.0
) -> Float[Tensor, " B"]:
    """`r - (b + shift)`, where b is the mean reward of the group (`mean`), or of its other members (`leave_one_out`).

    The baseline that leaves a response out is RLOO's (arXiv 2402.14740). `shift` is AsymRE's (arXiv 2506.20520): below
    0 it puts more weight on right responses. A response that is alone in its group is its own baseline.

    Raises ValueError for another baseline.

    Example:
        >>> rewards, group_index = torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0, 0, 0])
        >>> qstep.losses.group_advantages(rewards, group_index, "leave_one_out")
        tensor([ 1.0000, -0.5000, -0.5000])
    """
    rewards = at_least_fp32(rewards)
    _, group, sizes = group_index.unique(return_inverse=True, return_counts=True)
    lowest = rewards.new_zeros(len(sizes)).scatter_reduce(0, group, rewards, "amin", include_self=False)
    above = rewards - lowest[group]  # exactly 0 where all rewards of a group are the same
    means = rewards.new_zeros(len(sizes)).index_add(0, group, above) / sizes
    advantages = above - means[group]
    if baseline == "leave_one_out":
        advantages = advantages * (sizes / (sizes - 1).clamp(min=1))[group]
    elif baseline != "mean":
        raise ValueError(f"baseline {baseline!r} is unknown: choose leave_one_out or mean")
    return advantages - shift


def reinforce_loss(
    logps: Float[Tensor, "B T"],
    advantages: Float[Tensor, " B"],
    mask: Bool[Tensor, "B T"],
    weights: Float[Tensor, " B"] | Float[Tensor, "B T"] | None = None,
) -> Float[Tensor, " B"]:
    """`-A sum_t w_t log pi(a_t | s_t)`, with gradients to the policy alone.

    Its gradient is that of the expected reward if the weights are pi/mu of the complete response, unclipped.
    Raises ValueError if shapes do not fit.

    Example:
        >>> logps, mask = torch.tensor([[-1.0, -2.0]]), torch.tensor([[True, True]])
        >>> qstep.losses.reinforce_loss(logps, torch.tensor([0.5]), mask)
        tensor([1.5000])
    """
    check_shapes(logps.shape, "that of logps", mask=mask)
    check_shapes(logps.shape[:1], "a value for each row of logps", advantages=advantages)
    check_weights(weights, logps, "logps")
    logps = masked(logps, mask)
    if weights is not None:
        logps = logps * (weights if weights.ndim == 2 else weights[:, None]).detach()
    return -at_least_fp32(advantages).detach() * logps.sum(dim=1)
