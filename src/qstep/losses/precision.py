"""Preparation of the inputs of losses: enough precision, and zeros outside the mask."""

from __future__ import annotations

import torch
from torch import Tensor


def at_least_fp32(x: Tensor) -> Tensor:
    """`x` in float32, or in float64 if it already is. No loss is computed in half precision."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def masked(x: Tensor, mask: Tensor) -> Tensor:
    """`x` in at least float32 where `mask` is true, and exactly 0 elsewhere.

    Values outside the mask, even NaN and infinity, reach neither the result nor the gradient.
    """
    return torch.where(mask, at_least_fp32(x), 0)


def last_tokens(mask: Tensor) -> Tensor:
    """Where the last token of each row of the mask is."""
    return mask & (mask.cumsum(dim=1) == mask.sum(dim=1, keepdim=True))
