"""Token rewards from step scores, which are added to the outcome reward at the last token.

A step's score goes to the token that ends the step. `step_ends[b, s]` is the index of that token in [0, T), or -1 if
the step is absent. The scores of absent steps are ignored.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from qstep.losses.precision import at_least_fp32, last_tokens, masked


def potential_based_rewards(
    potentials: Float[Tensor, "B S"],
    step_ends: Int[Tensor, "B S"],
    mask: Bool[Tensor, "B T"],
    initial: Float[Tensor, " B"] | None = None,
) -> Float[Tensor, "B T"]:
    """`Phi(s_{h+1}) - Phi(s_h)` for every token h, which keeps the optimal policy.

    The potential of a state is that of its last completed step. Before the first step it is `initial` (the question's,
    0 by default), and after the last token it is 0. So rewards are paid at step ends and taken back at the last
    token: each trajectory sums to `-initial`. Raises ValueError if a step ends outside the mask. See Ng, Harada and
    Russell, "Policy invariance under reward transformations" (ICML 1999).
    """
    follows = torch.zeros_like(step_ends, dtype=torch.bool)
    follows[:, :-1] = (step_ends[:, 1:] == step_ends[:, :-1]) & (step_ends[:, :-1] >= 0)  # ends where the next one does
    at_ends = _place(potentials.masked_fill(follows, 0), step_ends, mask)
    if initial is None:
        initial = at_ends.new_zeros(len(at_ends))
    positions = torch.arange(mask.shape[1], device=mask.device)
    is_end = _place(torch.ones_like(potentials), step_ends, mask) > 0
    last_end = torch.where(is_end, positions, -1).cummax(dim=1).values
    after = torch.cat([at_least_fp32(initial)[:, None], at_ends], dim=1).gather(1, last_end + 1)
    before = torch.cat([at_least_fp32(initial)[:, None], after[:, :-1]], dim=1)
    return masked(after.masked_fill(last_tokens(mask), 0) - before, mask)


def additive_rewards(
    step_rewards: Float[Tensor, "B S"],
    step_ends: Int[Tensor, "B S"],
    mask: Bool[Tensor, "B T"],
    group_index: Int[Tensor, " B"],
) -> Float[Tensor, "B T"]:
    """Step rewards minus their mean over all steps of the problem's responses. They change the optimal policy.

    Rows with equal `group_index` belong to one problem. Without the centring, a longer response would earn more by its
    length alone. Raises ValueError if a step ends outside the mask.
    """
    present = step_ends >= 0
    rewards = masked(step_rewards, present)
    same_problem = (group_index[:, None] == group_index[None, :]).to(rewards.dtype)
    totals, counts = same_problem @ rewards.sum(dim=1), same_problem @ present.sum(dim=1).to(rewards.dtype)
    mean = totals / counts.clamp(min=1)
    return _place(rewards - mean[:, None], step_ends, mask)


def min_form_rewards(
    step_rewards: Float[Tensor, "B S"],
    step_ends: Int[Tensor, "B S"],
    mask: Bool[Tensor, "B T"],
    temperature: float,
) -> Float[Tensor, "B T"]:
    """`w_s r_s` at the end of step s, with `w = softmax(-r / temperature)` over the response's steps.

    They sum to a soft minimum of the response's step rewards, so its worst step decides, and good steps cannot make up
    for it. At temperature 0 the sum is the minimum, divided equally among the steps that have it. These rewards change
    the optimal policy. That of a step also depends on later steps. See "Stop Summation: Min-Form Credit Assignment Is
    All Process Reward Model Needs for Reasoning" (PURE, arXiv 2504.15275), which has temperature 0.1. Raises ValueError
    if a step ends outside the mask.

    Example:
        >>> step_rewards, step_ends = torch.tensor([[0.5, -0.5]]), torch.tensor([[0, 2]])
        >>> mask = torch.tensor([[True, True, True]])
        >>> qstep.losses.min_form_rewards(step_rewards, step_ends, mask, temperature=0.0)
        tensor([[ 0.0000,  0.0000, -0.5000]])
    """
    present = step_ends >= 0
    rewards = masked(step_rewards, present)
    lowest = F.pad(rewards.masked_fill(~present, torch.inf), (0, 1), value=torch.inf).amin(dim=1, keepdim=True)
    above = masked(rewards - lowest, present)
    above = above / temperature if temperature else torch.where(above > 0, torch.inf, above)
    weights = (-above).masked_fill(~present, torch.finfo(rewards.dtype).min).softmax(dim=1)
    return _place(weights * rewards, step_ends, mask)


def _place(
    scores: Float[Tensor, "B S"], step_ends: Int[Tensor, "B S"], mask: Bool[Tensor, "B T"]
) -> Float[Tensor, "B T"]:
    """The scores of present steps at the tokens that end them, 0 elsewhere."""
    length = mask.shape[1]
    present = step_ends != -1
    outside = present & ((step_ends < 0) | (step_ends >= length))
    outside |= present & ~mask.gather(1, step_ends.clamp(0, length - 1))
    if outside.any():
        row, step = outside.nonzero()[0].tolist()
        raise ValueError(
            f"row {row}: step {step} ends at token {step_ends[row, step].item()}, which is not a response token "
            f"among {length}: give the index of one, or -1 for an absent step"
        )
    scores = masked(scores, present)
    target = scores.new_zeros(len(scores), length + 1)  # the extra slot receives absent steps
    return target.scatter_add(1, step_ends.where(present, length), scores)[:, :length]
