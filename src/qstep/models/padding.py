"""Groups as padded rows: a prompt with each of its responses, for models that compute something else in a packed row.

Rows are padded on the right. No token of a causal model depends on later ones, so the model needs no mask, and its
states are those of each row alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import Cache, PreTrainedConfig
from transformers.cache_utils import DynamicCache, DynamicLayer

if TYPE_CHECKING:
    from qstep.models.packing import Packing

_LEAST_SHARE = 0.75
"""A row that is shorter than this share of the longest of its call begins another call of the model."""

_LEAST_SAVED = 0.25
"""A prompt is computed once for all its responses if this saves at least this share of the group's tokens."""


def padded_hidden(trunk: nn.Module, ids: Int[Tensor, " L"], packing: Packing) -> Float[Tensor, "L D"]:
    """The last hidden state of every token of a batch, in the order of the packed row.

    Rows of similar length are computed together. A prompt is computed once for its responses where the model's cache
    allows it, else with each of them; then its states are those with the first. With sharded weights there is one call,
    since each process has to call the model as often.
    """
    found = _States(trunk, ids)
    rows: list[Row] = []
    for prompt, responses in _segments(packing):
        if _shares(trunk, len(prompt), [*map(len, responses)]):
            cache = found.of_prompt(prompt)
            found.of_rows([Row(response) for response in responses if len(response)], cache)
        else:
            rows += _copies(prompt, responses)
    if rows:
        found.of_rows(rows)
    return found.in_order()


def copied_rows(packing: Packing) -> list[Row]:
    """Each response after a copy of its prompt, and prompts without responses."""
    return [row for prompt, responses in _segments(packing) for row in _copies(prompt, responses)]


def _copies(prompt: Int[Tensor, " P"], responses: Sequence[Int[Tensor, " T"]]) -> list[Row]:
    texts = [torch.cat([prompt, response]) for response in responses] or [prompt]
    return [Row(text, 0 if number == 0 else len(prompt)) for number, text in enumerate(texts)]


def caches_attention_only(config: PreTrainedConfig) -> bool:
    """Whether a model's cache has the keys and values of all tokens, and nothing else."""
    return all(type(layer) is DynamicLayer for layer in DynamicCache(config=config).layers)


@dataclass(frozen=True)
class Row:
    """The places of a row's tokens in the packed row, and the first of them whose state is read."""

    places: Int[Tensor, " T"]
    first: int = 0


@dataclass
class _States:
    """The states that were computed so far, and their places in the packed row."""

    trunk: Any
    ids: Int[Tensor, " L"]
    states: list[Float[Tensor, "T D"]] = field(default_factory=list)
    places: list[Int[Tensor, " T"]] = field(default_factory=list)

    def of_prompt(self, places: Int[Tensor, " T"]) -> Cache:
        """Computes a prompt, and returns the cache with which its responses continue."""
        output = self.trunk(input_ids=self.ids[places.to(self.ids.device)][None], use_cache=True)
        self.states.append(output.last_hidden_state[0])
        self.places.append(places)
        cache: Cache = output.past_key_values
        return cache

    def of_rows(self, rows: Sequence[Row], cache: Cache | None = None) -> None:
        """Computes rows, which continue the prompt in `cache` if there is one."""
        device = self.ids.device
        lengths = [len(row.places) for row in rows]
        for chosen in [[*range(len(rows))]] if self.trunk.is_called_once else _by_length(lengths):
            width = max(lengths[row] for row in chosen)
            padded = torch.zeros(len(chosen), width, dtype=torch.long)
            for line, row in enumerate(chosen):
                padded[line, : lengths[row]] = rows[row].places
            past = {"use_cache": False} if cache is None else {"past_key_values": _repeated(cache, len(chosen))}
            output = self.trunk(input_ids=self.ids[padded.to(device)], **past)
            read = [torch.arange(rows[row].first, lengths[row]) for row in chosen]
            lines = torch.cat([line * width + columns for line, columns in enumerate(read)])
            self.states.append(output.last_hidden_state.flatten(0, 1).index_select(0, lines.to(device)))
            self.places += [rows[row].places[columns] for row, columns in zip(chosen, read, strict=True)]

    def in_order(self) -> Float[Tensor, "L D"]:
        order = torch.cat(self.places).argsort()
        return torch.cat(self.states).index_select(0, order.to(self.ids.device))


def _segments(packing: Packing) -> list[tuple[Tensor, list[Tensor]]]:
    """The places of each prompt and of its responses in the packed row."""
    groups: dict[int, tuple[Tensor, list[Tensor]]] = {}
    own = torch.arange(sum(packing.lengths)).split(packing.lengths)
    for at, prompt in enumerate(packing.prompt_of):
        _, responses = groups.setdefault(prompt, (own[prompt], []))
        if at != prompt:
            responses.append(own[at])
    return [*groups.values()]


def _shares(trunk: Any, prompt: int, responses: Sequence[int]) -> bool:
    """Whether a prompt of this length is computed once for responses of these lengths."""
    saved, tokens = prompt * (len(responses) - 1), prompt * len(responses) + sum(responses)
    without_cache = trunk.is_called_once or (trunk.training and trunk.is_activation_checkpointing)
    saves = any(responses) and saved >= _LEAST_SAVED * tokens
    return bool(trunk.shares_prompts and not without_cache and saves)


def _repeated(cache: Cache, times: int) -> Cache:
    """A copy of the cache of one row for several rows."""
    made = copy(cache)
    made.layers = [copy(layer) for layer in cache.layers]
    made.batch_repeat_interleave(times)
    return made


def _by_length(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Divides rows into lists of similar length, the longest first."""
    chosen: list[int] = []
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        if chosen and lengths[row] < _LEAST_SHARE * lengths[chosen[0]]:
            yield chosen
            chosen = []
        chosen.append(row)
    yield chosen
