"""Rotary positions whose frequencies depend on the longest row of a batch."""

from __future__ import annotations

from typing import Any

from torch import nn


def rope_limit(model: nn.Module) -> int | None:
    """The number of tokens up to which the frequencies of a model are constant; None if they always are.

    With longrope and dynamic scaling, transformers chooses them by the longest row of a call. So in a batch that has a
    longer row, a shorter one would have other states than alone.
    """
    limits = [
        module.config.max_position_embeddings if kind == "dynamic" else parameters["original_max_position_embeddings"]
        for module in model.modules()
        for kind, parameters in _kinds(module)
        if kind in ("longrope", "dynamic")
    ]
    return min(limits, default=None)


def _kinds(module: Any) -> list[tuple[str, dict[str, Any]]]:
    """The kind of rotary positions of a module with its parameters, or of each type of layers that it serves."""
    kinds = getattr(module, "rope_type", None)
    if isinstance(kinds, str):
        return [(kinds, module.config.rope_parameters or {})]
    if isinstance(kinds, dict):
        return [(kind, module.config.rope_parameters[layers]) for layers, kind in kinds.items()]
    return []


def check_rope(tokens: int, limit: int | None) -> None:
    """Raises ValueError for more tokens than `rope_limit`."""
    if limit is not None and tokens > limit:
        raise ValueError(
            f"a prompt and response of {tokens} tokens: beyond {limit} tokens this model's rotary positions (longrope "
            "or dynamic) depend on the longest row of the batch, so the rows beside it would change. Set --max_length "
            f"{limit}, or less"
        )
