"""Returns along token trajectories.

Shapes are [B, T], with one column a token. `rewards[:, t]` is the reward of token t, and `values[:, t]` is the value
of the state *before* it. The state after the last token of the mask is terminal, with value 0. There is no discount.
Tokens outside the mask (a prompt, padding, inserted text) are skipped: the next state is the one before the next
token of the mask. The result is 0 outside the mask.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from qstep.losses.precision import masked
from qstep.losses.shapes import check_shapes


def following(x: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"]) -> Float[Tensor, "B T"]:
    """`x` at the next token of the mask, or 0 after the last. It makes V(s_{h+1}) from V(s_h), and G_{h+1} from G_h."""
    here_or_later = _suffix_scan((~mask).to(x.dtype), masked(x, mask))
    return masked(F.pad(here_or_later[:, 1:], (0, 1)), mask)


def lambda_return(
    rewards: Float[Tensor, "B T"], values: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"], lam: float
) -> Float[Tensor, "B T"]:
    """`G_h = r_h + (1 - lam) V(s_{h+1}) + lam G_{h+1}`, the lam-weighted mean of the n-step returns.

    With soft rewards `r - beta log(pi / pi_ref)` it is the return of DQO (arXiv 2410.09302). With lam = 1 it is the sum
    of the remaining rewards, and values have no effect. Raises ValueError if shapes differ.
    """
    check_shapes(rewards.shape, "that of rewards", values=values, mask=mask)
    one_step = masked(rewards, mask) + (1 - lam) * following(values, mask)
    factor = torch.ones_like(one_step).masked_fill(mask, lam)
    return masked(_suffix_scan(factor, one_step), mask)


def _suffix_scan(factor: Float[Tensor, "B T"], term: Float[Tensor, "B T"]) -> Float[Tensor, "B T"]:
    """`y_t = term_t + factor_t * y_{t+1}` with y_T = 0, in log2(T) rounds. Each round doubles the reach."""
    reach = 1
    while reach < term.shape[1]:
        term = term + factor * F.pad(term[:, reach:], (0, reach))
        factor = factor * F.pad(factor[:, reach:], (0, reach))
        reach *= 2
    return term
