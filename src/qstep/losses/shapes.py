"""A check of shapes, because tensors of other shapes would be broadcast to a wrong loss without an error."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


def check_shapes(shape: Sequence[int], why: str, **tensors: Tensor | None) -> None:
    """Raises ValueError, which names the argument, if a tensor has another shape. `why` says what has this one."""
    for name, tensor in tensors.items():
        if tensor is not None and tensor.shape != shape:
            raise ValueError(f"{name} has the shape {(*tensor.shape,)}; it must be {(*shape,)}, {why}")


def check_weights(weights: Tensor | None, like: Tensor, name: str) -> None:
    """Raises ValueError if weights are neither one for each row nor one for each token of `like`, called `name`."""
    if weights is not None and weights.ndim == 1:
        check_shapes(like.shape[:1], f"a weight for each row of {name}", weights=weights)
    else:
        check_shapes(like.shape, f"that of {name}", weights=weights)
