"""Rotary positions whose frequencies depend on the longest row of a batch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn


def rope_limit(model: nn.Module) -> int | None:
    """The number of tokens up to which the frequencies of a model are constant; None if they always are.

    With longrope and dynamic scaling, transformers chooses them by the longest row of a call. So in a batch that has a
    longer row, a shorter one would have other states than alone.
    """
    return min((limit for module in model.modules() for limit in _limits(module)), default=None)


def _limits(module: Any) -> Iterator[int]:
    """The limit of a module's rotary positions, or those of each type of layers that it serves."""
    kinds = getattr(module, "rope_type", {})
    for layers, kind in kinds.items() if isinstance(kinds, dict) else [(None, kinds)]:
        parameters = module.config.rope_parameters
        if kind == "dynamic":
            yield module.config.max_position_embeddings
        elif kind == "longrope":
            yield (parameters if layers is None else parameters[layers])["original_max_position_embeddings"]


def check_rope(tokens: int, limit: int | None) -> None:
    """Raises ValueError for more tokens than `rope_limit`."""
    if limit is not None and tokens > limit:
        raise ValueError(
            f"a prompt and response of {tokens} tokens: beyond {limit} tokens this model's rotary positions (longrope "
            "or dynamic) depend on the longest row of a batch. The numbers of its other rows would change with it. Set "
            f"--max_length {limit}, or less"
        )
