"""DQO: the soft Bellman equations as regressions, with the policy itself as the Q-function.

See "Enhancing Multi-Step Reasoning Abilities of Language Models through Direct Q-Function Optimization"
(arXiv 2410.09302). If pi* is optimal for `E[sum_h r_h - beta log(pi / pi_ref)(a_h | s_h)]`,

    Q*(s, a) = beta log(pi* / pi_ref)(a | s) + V*(s),        Q*(s_h, a_h) = r_h + V*(s_{h+1}),

so a policy and a value network together are a Q-function. All targets are detached. So one backward pass through the
sum of both losses computes the gradients of both.
"""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor

from qstep.losses.precision import last_tokens, masked
from qstep.losses.returns import following, lambda_return
from qstep.losses.shapes import check_shapes, check_weights


@dataclass(frozen=True, slots=True)
class DQOLosses:
    """The two losses of a batch. For the log, also returns and log-ratios, detached and 0 outside the mask."""

    value: Float[Tensor, " B"]
    q: Float[Tensor, " B"]
    returns: Float[Tensor, "B T"]
    log_ratios: Float[Tensor, "B T"]


def dqo_losses(
    logps: Float[Tensor, "B T"],
    reference_logps: Float[Tensor, "B T"] | None,
    values: Float[Tensor, "B T"],
    rewards: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    *,
    beta: float,
    lam: float,
    weights: Float[Tensor, " B"] | Float[Tensor, "B T"] | None = None,
    cut_off: Bool[Tensor, " B"] | None = None,
    soft_return: bool = True,
) -> DQOLosses:
    """DQO's value and Q loss on the lambda-return of the soft rewards (arXiv 2410.09302).

    `logps` and `reference_logps` are the log-probabilities of the response's tokens in nats. `values[:, t]` is the
    value of the state before token t. Without a reference, Q = beta log pi + V, and the objective is maximum entropy.
    This equals a uniform reference up to a bonus of `beta log(vocabulary)` a token. `weights` are importance weights,
    one a trajectory or one a token. Raises ValueError if shapes do not fit.

    `cut_off` marks trajectories whose last state is not terminal, as partial-episode bootstrapping does (arXiv
    1712.00378). Their returns continue from V of the state before the last token. That token has neither a loss nor a
    reward, because its targets need V of the state after it.

    With `soft_return` false the returns are sums of rewards without the KL term, so V is the plain value of the policy
    that sampled. The result is one step of improvement on that policy, not the optimum.

    With lam = 1 and soft returns, both losses square one residual, `V(s_h) + beta log(pi / pi_ref)(a_h | s_h) - (r_h +
    G_{h+1})`. The gradients are those of its square with the last term detached. So DQO is then path consistency (arXiv
    1702.08892), in which each residual moves V and the log-ratio of its own token only.

    Example:
        >>> logps, reference_logps = torch.tensor([[-1.0, -2.0]]), torch.tensor([[-1.5, -2.0]])
        >>> values, rewards, mask = torch.tensor([[0.5, 0.5]]), torch.tensor([[0.0, 1.0]]), torch.tensor([[True, True]])
        >>> losses = qstep.dqo_losses(logps, reference_logps, values, rewards, mask, beta=0.2, lam=1.0)
        >>> losses.returns
        tensor([[0.9000, 1.0000]])
        >>> losses.value + losses.q
        tensor([0.8200])
    """
    of_tokens = {"reference_logps": reference_logps, "values": values, "rewards": rewards, "mask": mask}
    check_shapes(logps.shape, "that of logps", **of_tokens)
    check_shapes(logps.shape[:1], "a value for each row of logps", cut_off=cut_off)
    check_weights(weights, logps, "logps")
    log_ratios = masked(logps, mask)
    if reference_logps is not None:
        log_ratios = log_ratios - masked(reference_logps, mask).detach()
    returned = masked(rewards, mask)
    if soft_return:
        returned = returned - beta * log_ratios.detach()
    judged = mask
    if cut_off is not None:
        last = last_tokens(mask) & cut_off[:, None]
        returned, judged = returned.where(~last, values.detach()), mask & ~last
    returns = lambda_return(returned, values.detach(), mask, lam)
    return DQOLosses(
        value=dqo_value_loss(values, returns, judged, weights),
        q=dqo_q_loss(log_ratios, values, rewards, following(returns, mask), judged, beta, weights),
        returns=returns,
        log_ratios=log_ratios.detach(),
    )


def dqo_value_loss(
    values: Float[Tensor, "B T"],
    returns: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    weights: Float[Tensor, " B"] | Float[Tensor, "B T"] | None = None,
) -> Float[Tensor, " B"]:
    """`sum_h w (V(s_h) - G_h)^2` with detached returns (arXiv 2410.09302). Raises ValueError if shapes do not fit."""
    check_shapes(values.shape, "that of values", returns=returns, mask=mask)
    check_weights(weights, values, "values")
    return _squared_sum(masked(values, mask) - masked(returns, mask).detach(), weights)


def dqo_q_loss(
    log_ratios: Float[Tensor, "B T"],
    values: Float[Tensor, "B T"],
    rewards: Float[Tensor, "B T"],
    next_returns: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    beta: float,
    weights: Float[Tensor, " B"] | Float[Tensor, "B T"] | None = None,
) -> Float[Tensor, " B"]:
    """`sum_h w (beta log(pi / pi_ref)(a_h | s_h) + V(s_h) - (r_h + G_{h+1}))^2` (arXiv 2410.09302).

    Only `log_ratios` has a gradient. `next_returns[:, h]` is G_{h+1}, and 0 at the last token. Raises ValueError if
    shapes do not fit.
    """
    of_tokens = {"values": values, "rewards": rewards, "next_returns": next_returns, "mask": mask}
    check_shapes(log_ratios.shape, "that of log_ratios", **of_tokens)
    check_weights(weights, log_ratios, "log_ratios")
    q_values = beta * masked(log_ratios, mask) + masked(values, mask).detach()
    return _squared_sum(q_values - (masked(rewards, mask) + masked(next_returns, mask)).detach(), weights)


def _squared_sum(
    errors: Float[Tensor, "B T"], weights: Float[Tensor, " B"] | Float[Tensor, "B T"] | None
) -> Float[Tensor, " B"]:
    squares = errors.square()
    if weights is not None:
        squares = squares * (weights[:, None] if weights.ndim == 1 else weights).detach()
    return squares.sum(dim=1)
