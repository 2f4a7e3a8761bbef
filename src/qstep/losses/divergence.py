"""How far the policy has moved from the reference."""

from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor

from qstep.losses.precision import masked

_MOST_NATS = 20.0
"""Larger log-ratios count as this much, so that one token cannot make an average infinite (as in verl)."""


def kl_k3(
    logps: Float[Tensor, "B T"], reference_logps: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"]
) -> Float[Tensor, "B T"]:
    """`pi_ref / pi - 1 - log(pi_ref / pi)` at each token, detached, 0 outside the mask.

    It is the estimator k3 of KL(pi, pi_ref) (Schulman, "Approximating KL Divergence",
    http://joschu.net/blog/kl-approx.html), and never negative. Its mean is unbiased for tokens that pi sampled. Tokens
    of another policy include more of those that pi has made rare, so their mean usually overstates the KL.
    """
    log_ratios = (masked(reference_logps, mask) - masked(logps, mask)).detach()
    return log_ratios.clamp(max=_MOST_NATS).exp() - 1 - log_ratios
