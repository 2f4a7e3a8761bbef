"""Groups as padded rows: a prompt with each of its responses, for models that compute something else in a packed row.

Rows are padded on the right. No token of a causal model depends on later ones, so the model needs no mask, and its
states are those of each row alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from qstep.models.sharding import is_sharded

if TYPE_CHECKING:
    from qstep.models.packing import Packing

_LEAST_SHARE = 0.75
"""A row that is shorter than this share of the longest of its call begins another call of the model."""


def padded_hidden(trunk: nn.Module, ids: Int[Tensor, " L"], packing: Packing) -> Float[Tensor, "L D"]:
    """The last hidden state of every token of a batch, in the order of the packed row.

    A prompt is computed once for each of its responses. Its states are those of the first. Rows of similar length are
    computed together, or all of them if the model's weights are sharded: then each process has to call it as often.
    """
    rows, read = _rows(packing)
    states: Tensor | None = None
    for chosen in [[*range(len(rows))]] if is_sharded(trunk) else _alike([*map(len, rows)]):
        width = max(len(rows[row]) for row in chosen)
        places = torch.zeros(len(chosen), width, dtype=torch.long)
        for line, row in enumerate(chosen):
            places[line, : len(rows[row])] = rows[row]
        found = trunk(input_ids=ids[places.to(ids.device)], use_cache=False).last_hidden_state
        if states is None:
            states = found.new_zeros(len(ids), found.shape[-1])
        lines = torch.cat([line * width + read[row] for line, row in enumerate(chosen)]).to(ids.device)
        into = torch.cat([rows[row][read[row]] for row in chosen]).to(ids.device)
        states = states.index_copy(0, into, found.flatten(0, 1).index_select(0, lines))
    assert states is not None, "a batch has at least one prompt"
    return states


def _rows(packing: Packing) -> tuple[list[Tensor], list[Tensor]]:
    """The places of each row's tokens in the packed row, and which of a row's states are read."""
    own = torch.arange(sum(packing.lengths)).split(packing.lengths)
    alone = {*range(len(own))} - {prompt for at, prompt in enumerate(packing.prompt_of) if at != prompt}
    rows, read, taken = [], [], set[int]()
    for at, prompt in enumerate(packing.prompt_of):
        if at == prompt and at not in alone:
            continue  # it is computed with its responses
        row = own[at] if at == prompt else torch.cat([own[prompt], own[at]])
        rows.append(row)
        read.append(torch.arange(0 if prompt not in taken else len(own[prompt]), len(row)))
        taken.add(prompt)
    return rows, read


def _alike(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Divides rows into lists of similar length, the longest first."""
    chosen: list[int] = []
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        if chosen and lengths[row] < _LEAST_SHARE * lengths[chosen[0]]:
            yield chosen
            chosen = []
        chosen.append(row)
    yield chosen
