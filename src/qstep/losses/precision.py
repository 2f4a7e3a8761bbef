"""What every loss does to its inputs first: enough precision, and nothing from where nothing is."""

from __future__ import annotations

import torch
from torch import Tensor


def at_least_fp32(x: Tensor) -> Tensor:
    """`x` in float32, or in float64 where it is that already: no loss is computed in half precision."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def masked(x: Tensor, mask: Tensor) -> Tensor:
    """`x` in at least float32 where `mask` is true, and exactly 0 elsewhere.

    Whatever lies outside the mask (NaN and infinity included) reaches neither the value nor the gradient.
    """
    return torch.where(mask, at_least_fp32(x), 0)
