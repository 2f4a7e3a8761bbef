"""The states of a batch in the key-value cache: which prompts share one, and which states the next tokens lead to.

Dimensions: R rows, S states, L positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicLayer

_DROP_SHARE = 1 / 8
"""The share of ended states at which the batch is compacted. Keeping them costs compute, removing them a copy."""

_ROOM = 64
"""Minimum number of positions by which a key-value buffer grows."""


class GrowingLayer(DynamicLayer):
    """Keys and values in a buffer with room to grow. A step writes only its own position.

    `DynamicLayer` concatenates, which copies all keys and values at every step.
    """

    def __init__(self, layer: DynamicLayer) -> None:
        super().__init__()
        assert layer.keys is not None and layer.values is not None, "the layer holds a prompt"
        self.lazy_initialization(layer.keys, layer.values)
        self._keys, self._values, self._length = layer.keys, layer.values, layer.keys.shape[-2]
        self._expose()

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        start, self._length = self._length, self._length + key_states.shape[-2]
        if self._length > self._keys.shape[-2]:
            capacity = self._length + max(_ROOM, self._length // 2)
            self._keys = _moved(self._keys[:, :, :start], capacity)
            self._values = _moved(self._values[:, :, :start], capacity)
        self._keys[:, :, start : self._length] = key_states
        self._values[:, :, start : self._length] = value_states
        return self._expose()

    def reorder_cache(self, beam_idx: Tensor) -> None:
        self._keys = self._keys.index_select(0, beam_idx)
        self._values = self._values.index_select(0, beam_idx)
        self._expose()

    def _expose(self) -> tuple[Tensor, Tensor]:
        keys, values = self._keys[:, :, : self._length], self._values[:, :, : self._length]
        self.keys, self.values = keys, values
        return keys, values


def hosts_of(prompts: Sequence[tuple[int, ...]]) -> list[int]:
    """For each prompt, the index of the longest prompt that begins with it, or its own index.

    In the order of tokens, the prompts that begin with a prompt follow it directly.
    """
    order = sorted(range(len(prompts)), key=prompts.__getitem__, reverse=True)
    hosts = list(range(len(prompts)))
    for after, this in pairwise(order):
        if prompts[after][: len(prompts[this])] == prompts[this]:
            hosts[this] = hosts[after]
    return hosts


def take_beginnings(cache: Any, row_S: Tensor, pads_S: Tensor, host_pads_S: Tensor) -> None:
    """Turns the prompts in a cache into states that are beginnings of them, left-padded as before.

    A beginning has the same keys as the complete prompt, because tokens do not see later ones. `row_S` is the row of
    each state's prompt, and `host_pads_S` is its padding.
    """
    length = cache.layers[0].keys.shape[-2]
    slots_SL = (torch.arange(length, device=row_S.device) + (host_pads_S - pads_S)[:, None]).clamp(min=0)
    for number, layer in enumerate(cache.layers):
        for name in ("keys", "values"):
            held = getattr(layer, name).index_select(0, row_S)
            index = slots_SL[:, None, :, None].expand(-1, held.shape[1], -1, held.shape[3])
            setattr(layer, name, held.gather(2, index))
        cache.layers[number] = GrowingLayer(layer)


def _moved(states: Tensor, capacity: int) -> Tensor:
    """`states` at the front of a new buffer of `capacity` positions."""
    rows, heads, length, size = states.shape
    buffer = states.new_empty((rows, heads, capacity, size))
    buffer[:, :, :length] = states
    return buffer


def next_states(state_R: Tensor, token_R: Tensor, states: int) -> tuple[Tensor | None, Tensor, Tensor]:
    """The states that the rows in `state_R` (of `states` states) reach with `token_R`.

    Returns the predecessor of each next state, the token of each next state, and the next state of each row. The
    predecessors are None if the cache can stay unchanged: no state splits, and few states have lost all their rows.
    """
    order = token_R.max() + 1
    pair_S, next_R = torch.unique(state_R * order + token_R, return_inverse=True)
    source_S, token_S = pair_S // order, pair_S % order
    split = bool((source_S[1:] == source_S[:-1]).any())
    if split or states - len(source_S) >= _DROP_SHARE * states:
        return source_S, token_S, next_R
    all_tokens_S = torch.zeros(states, dtype=token_S.dtype, device=token_S.device)
    all_tokens_S[source_S] = token_S
    return None, all_tokens_S, source_S[next_R]
