"""DRO: the complete response is a single action."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from qstep.losses.precision import at_least_fp32
from qstep.losses.shapes import check_shapes


def dro_loss(
    log_ratio_sums: Float[Tensor, " B"],
    values: Float[Tensor, " B"],
    rewards: Float[Tensor, " B"],
    beta: float,
) -> Float[Tensor, " B"]:
    """`(r - V(x) - beta log(pi / pi_ref)(y | x))^2`, with gradients to the policy and to the value.

    The bandit baseline of DQO (arXiv 2410.09302). It comes from "Offline Regularised Reinforcement Learning for Large
    Language Models Alignment" (arXiv 2405.19107), without its factor 1/2. `rewards` are sums over responses.
    Raises ValueError if shapes differ.

    Example:
        >>> log_ratio_sums, values, rewards = torch.tensor([0.5]), torch.tensor([0.5]), torch.tensor([1.0])
        >>> qstep.dro_loss(log_ratio_sums, values, rewards, beta=0.2)
        tensor([0.1600])
    """
    check_shapes(log_ratio_sums.shape, "that of log_ratio_sums", values=values, rewards=rewards)
    return (at_least_fp32(rewards) - at_least_fp32(values) - beta * at_least_fp32(log_ratio_sums)).square()


def group_values(rewards: Float[Tensor, " B"], group_index: Int[Tensor, " B"], beta: float) -> Float[Tensor, " B"]:
    """`V(x) = beta log mean_i exp(r_i / beta)` over the responses of a problem, for each of them.

    This is the soft-optimal value of the prompt if the reference sampled the responses, up to sampling error. See
    "Accelerating RL for LLM Reasoning with Optimal Advantage Regression" (A*-PO, arXiv 2505.20686). Rows with equal
    `group_index` belong to one problem. If all its rewards are equal, V is exactly that reward.

    Example:
        >>> rewards, group_index = torch.tensor([1.0, 0.0, 1.0]), torch.tensor([0, 0, 1])
        >>> qstep.losses.group_values(rewards, group_index, beta=1.0)
        tensor([0.6201, 0.6201, 1.0000])
    """
    rewards = at_least_fp32(rewards)
    _, group, sizes = group_index.unique(return_inverse=True, return_counts=True)
    best = rewards.new_full((len(sizes),), -torch.inf).scatter_reduce(0, group, rewards, "amax")
    shares = ((rewards - best[group]) / beta).exp()
    means = torch.zeros_like(best).index_add(0, group, shares) / sizes
    return (best + beta * means.log())[group]
