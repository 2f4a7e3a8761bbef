"""DRO: the complete response is a single action."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from qstep.losses.precision import at_least_fp32


def dro_loss(
    log_ratio_sums: Float[Tensor, " B"],
    values: Float[Tensor, " B"],
    rewards: Float[Tensor, " B"],
    beta: float,
) -> Float[Tensor, " B"]:
    """`(r - V(x) - beta log(pi / pi_ref)(y | x))^2`, with gradients to the policy and to the value.

    The bandit baseline of DQO (arXiv 2410.09302). It comes from "Offline Regularised Reinforcement Learning for Large
    Language Models Alignment" (arXiv 2405.19107), without its factor 1/2. `rewards` are sums over responses.

    Example:
        >>> log_ratio_sums, values, rewards = torch.tensor([0.5]), torch.tensor([0.5]), torch.tensor([1.0])
        >>> qstep.dro_loss(log_ratio_sums, values, rewards, beta=0.2)
        tensor([0.1600])
    """
    return (at_least_fp32(rewards) - at_least_fp32(values) - beta * at_least_fp32(log_ratio_sums)).square()
