"""Importance weights, which correct for responses of the behaviour policy mu when training the policy pi.

Log-ratios are clipped before they are exponentiated, so weights do not overflow.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from qstep.losses.precision import at_least_fp32, masked
from qstep.losses.shapes import check_shapes

ImportanceMode = Literal["trajectory", "prefix", "token", "none"]
"""What a weight covers: the complete response, its tokens up to each one, each token alone, or nothing (all are 1)."""


@dataclass(frozen=True, slots=True)
class ImportanceWeights:
    """The weights for training, their logs, and the unclipped log-weights of trajectories. All are detached.

    With token weights, `log_clipped` is 0 outside the mask.
    """

    weights: Float[Tensor, " B"] | Float[Tensor, "B T"]
    log_clipped: Float[Tensor, " B"] | Float[Tensor, "B T"]
    log_weights: Float[Tensor, " B"]


def importance_weights(
    logps: Float[Tensor, "B T"],
    behavior_logps: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    mode: ImportanceMode,
    clip: float = 1.0,
) -> ImportanceWeights:
    """`w = min(clip, prod_h (pi / mu)(a_h | s_h))` (arXiv 2410.09302), detached.

    With "trajectory" the product runs over the response, and weights are [B]. With "prefix" it runs over the tokens up
    to and including each one, and weights are [B, T], 0 outside the mask. With "token" each weight is the ratio of its
    own token, [B, T]: it varies less, but ignores how likely the policy is to reach the state. With "none" all weights
    are 1. `clip = math.inf` leaves weights unclipped. Raises ValueError for another mode, if clip is not positive, or
    if shapes differ.

    Example:
        >>> logps, behavior_logps = torch.tensor([[-1.0, -2.0]]), torch.tensor([[-1.0, -1.0]])
        >>> qstep.importance_weights(logps, behavior_logps, torch.tensor([[True, True]]), "trajectory").weights
        tensor([0.3679])
    """
    check_shapes(logps.shape, "that of logps", behavior_logps=behavior_logps, mask=mask)
    log_ratios = (masked(logps, mask) - masked(behavior_logps, mask)).detach()
    log_weights, log_clip = log_ratios.sum(dim=1), math.log(clip)
    if mode == "trajectory":
        log_clipped = log_weights.clamp(max=log_clip)
    elif mode == "prefix":
        log_clipped = masked(log_ratios.cumsum(dim=1).clamp(max=log_clip), mask)
    elif mode == "token":
        log_clipped = masked(log_ratios.clamp(max=log_clip), mask)
    elif mode == "none":
        log_clipped = torch.zeros_like(log_weights)
    else:
        raise ValueError(f"importance mode {mode!r} is unknown: choose trajectory, prefix, token or none")
    weights = log_clipped.exp()
    return ImportanceWeights(weights if weights.ndim == 1 else masked(weights, mask), log_clipped, log_weights)


def importance_diagnostics(log_weights: Float[Tensor, " B"], log_clipped: Float[Tensor, " N"]) -> dict[str, float]:
    """The distance between behaviour policy and policy, from the weights of B responses.

    `log_clipped` are the logs of the N weights in training, of responses or of their tokens, and
    `effective_sample_size` is `(sum w)^2 / (N sum w^2)` of these: 1 if all are equal, 1/N if one outweighs the rest.
    `mean_weight` is their mean. The other values are of the unclipped weights of complete responses: `log_weight_p*`
    are quantiles and `log_weight_max` the largest, in nats; `share_above_100` and `share_below_0.01` are shares.
    """
    log_weights, log_clipped = at_least_fp32(log_weights.detach()), at_least_fp32(log_clipped.detach())
    log_size = 2 * log_clipped.logsumexp(dim=0) - (2 * log_clipped).logsumexp(dim=0)
    low, median, high = log_weights.quantile(log_weights.new_tensor([0.05, 0.5, 0.95])).tolist()
    return {
        "effective_sample_size": log_size.exp().item() / len(log_clipped),
        "mean_weight": log_clipped.exp().mean().item(),
        "log_weight_p05": low,
        "log_weight_p50": median,
        "log_weight_p95": high,
        "log_weight_max": log_weights.max().item(),
        "share_above_100": (log_weights > math.log(100)).float().mean().item(),
        "share_below_0.01": (log_weights < math.log(0.01)).float().mean().item(),
    }
