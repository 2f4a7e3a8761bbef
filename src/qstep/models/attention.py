"""Attention within packed batches: of a prompt to itself, and of a response to its prompt and itself."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from qstep.models.packing import Packing

_LARGE_MASK = 1 << 20
"""Elements of a mask from which computing a few queries more, without a mask, is cheaper."""


class NotPassedOn(RuntimeError):
    """A model's layers do not give its attention what the model was called with."""


def packed_attention(
    module: nn.Module,
    query: Float[Tensor, "1 H L d"],
    key: Float[Tensor, "1 K L d"],
    value: Float[Tensor, "1 K L d"],
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Float[Tensor, " H"] | None = None,
    packing: Packing | None = None,
    **_: Any,
) -> tuple[Float[Tensor, "1 L H d"], None]:
    """Causal attention within each prompt, and from each response to its prompt and itself.

    The decoders of transformers call it as their attention. It supports grouped keys, sliding windows, soft-capped
    scores and sinks (`s_aux`, scores that get a share of the softmax and have no value).

    Raises NotPassedOn if the model does not pass `packing`, and RuntimeError if it uses dropout.
    """
    if packing is None or attention_mask is not None:
        raise NotPassedOn(f"{type(module).__name__} was called without a packed batch; use qstep.models to call it")
    if dropout:
        raise RuntimeError(f"{type(module).__name__} drops out attention: load the model with qstep.models")
    query, key = query.to(value.dtype), key.to(value.dtype)
    if softcap is None and s_aux is None and _flash_attention_takes(query, value):
        return _one_kernel(query, key, value, packing, scaling, sliding_window), None
    segments = zip(*(states.split(packing.lengths, dim=2) for states in (query, key, value)), strict=True)
    outputs: list[Tensor] = []
    prompt_key = prompt_value = key
    for at, (q, k, v) in enumerate(segments):
        before = 0
        if packing.prompt_of[at] == at:
            prompt_key, prompt_value = k, v
        else:
            before = prompt_key.shape[2]
            k, v = torch.cat([prompt_key, k], dim=2), torch.cat([prompt_value, v], dim=2)
        if q.shape[2]:
            outputs.append(_attend(q, k, v, packing, before, scaling, sliding_window, softcap, s_aux))
    return torch.cat(outputs, dim=2).transpose(1, 2).contiguous(), None


def _flash_attention_takes(query: Tensor, value: Tensor) -> bool:
    """Whether FlashAttention can run: half precision, a GPU since Ampere, and a supported head width."""
    if query.shape[-1] != value.shape[-1] or not query.is_cuda or query.dtype not in (torch.float16, torch.bfloat16):
        return False
    width = query.shape[-1]
    return width % 8 == 0 and width <= 256 and torch.cuda.get_device_capability(query.device) >= (8, 0)


def _one_kernel(
    query: Tensor, key: Tensor, value: Tensor, packing: Packing, scaling: float | None, window: int | None
) -> Float[Tensor, "1 L H d"]:
    """Computes all segments at once by FlashAttention. A prompt's keys are copied for each of its responses.

    If a segment has more keys than queries, FlashAttention aligns their ends. So a response follows its prompt.
    """
    from torch.nn.attention.varlen import varlen_attn  # brings a compiler, which no CPU needs

    spans = packing.spans(query.device)
    output = varlen_attn(
        query[0].transpose(0, 1).contiguous(),
        key[0].transpose(0, 1).index_select(0, spans.key_positions),
        value[0].transpose(0, 1).index_select(0, spans.key_positions),
        spans.query_starts,
        spans.key_starts,
        spans.longest_query,
        spans.longest_key,
        scale=scaling,
        window_size=(-1 if window is None else window - 1, 0),
        enable_gqa=key.shape[1] != query.shape[1],
    )
    assert isinstance(output, Tensor)  # it is a pair only if more results are requested
    return output.unsqueeze(0)


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    packing: Packing,
    before: int,
    scaling: float | None,
    window: int | None,
    softcap: float | None,
    sinks: Tensor | None,
) -> Tensor:
    length = query.shape[2]
    if window is not None and before + length <= window:
        window = None
    grouped = key.shape[1] != query.shape[1]
    unchanged = window is None and softcap is None and sinks is None
    if unchanged and 0 < 2 * before <= length and length * (before + length) > _LARGE_MASK:
        query = F.pad(query, (0, 0, before, 0))  # a query for each key, whose mask is implied
        return _attend(query, key, value, packing, 0, scaling, None, None, None)[:, :, before:]
    plain = before == 0 and window is None
    if softcap is None and sinks is None and (plain or not query.is_cuda):
        mask = None if plain else packing.mask(before, window, query)
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, is_causal=plain, scale=scaling, enable_gqa=grouped
        )
    mask = packing.mask(before, window, query)
    if grouped:  # no GPU kernel takes both grouped keys and a mask
        repeats = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(repeats, dim=1), value.repeat_interleave(repeats, dim=1)
    if softcap is None and sinks is None:
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scaling)
    scores = query @ key.transpose(2, 3) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    scores = (scores + mask).float()
    if sinks is not None:
        scores = torch.cat([scores, sinks.float().view(1, -1, 1, 1).expand(*scores.shape[:3], 1)], dim=-1)
    return scores.softmax(dim=-1)[..., : key.shape[2]].to(value.dtype) @ value
