"""One forward pass over groups: a prompt is computed once, its responses run on its keys and values.

A batch is a plain dict of tensors (so that `transformers.Trainer` can move it between devices):

    prompt_ids   [G, P]  prompts, padded on the left        prompt_mask    [G, P]  1 where a token is
    response_ids [B, T]  responses, padded on the right     response_mask  [B, T]  1 where a token is
    group_index  [B]     the prompt of each response
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from transformers import DynamicCache

if TYPE_CHECKING:
    from jaxtyping import Float

Batch = dict[str, Tensor]


def pad(sequences: Sequence[Sequence[int]], *, side: str) -> tuple[Tensor, Tensor]:
    """Stacks token sequences to `[B, T]` with their mask; padded slots hold token 0, which no position sees."""
    length = max((len(sequence) for sequence in sequences), default=0)
    ids = torch.zeros(len(sequences), length, dtype=torch.long)
    mask = torch.zeros(len(sequences), length, dtype=torch.long)
    for i, sequence in enumerate(sequences):
        slots = slice(length - len(sequence), length) if side == "left" else slice(0, len(sequence))
        ids[i, slots] = torch.tensor(sequence, dtype=torch.long)
        mask[i, slots] = 1
    return ids, mask


def collate_groups(prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[Sequence[int]]]) -> Batch:
    """Builds a batch from G prompts and, for each, the token ids of its responses."""
    prompt_ids, prompt_mask = pad(prompts, side="left")
    response_ids, response_mask = pad([ids for group in responses for ids in group], side="right")
    group_index = torch.tensor([g for g, group in enumerate(responses) for _ in group], dtype=torch.long)
    return {
        "prompt_ids": prompt_ids,
        "prompt_mask": prompt_mask,
        "response_ids": response_ids,
        "response_mask": response_mask,
        "group_index": group_index,
    }


def response_hidden(trunk: nn.Module, batch: Batch, *, shared: bool | None = None) -> Float[Tensor, "B T1 D"]:
    """The trunk's last hidden states along each response, `[B, T + 1, D]`.

    Index t is the state after t response tokens: index 0 is read at the prompt's last token, so `[:, :-1]`
    are the states in which the tokens were chosen and `[:, 1:]` those the tokens led to.

    Args:
        trunk: a decoder without its head (`model.base_model`).
        batch: see the module's legend.
        shared: compute each prompt once and run its responses on its cache (True), or the prompt anew for
            every response (False). Both give the same values and gradients. By default, shared where that saves
            a fifth of the positions (a second pass costs about as much), and never under gradient checkpointing,
            which a cache excludes.
    """
    if shared is None:
        checkpointing = trunk.training and getattr(trunk, "gradient_checkpointing", False)
        shared = not checkpointing and _positions_saved(batch) >= 0.2
    return _shared_prefix(trunk, batch) if shared else _whole_sequences(trunk, batch)


def _positions_saved(batch: Batch) -> float:
    """The share of the whole sequences' positions that computing each prompt once would save."""
    (groups, prompt), (rows, response) = batch["prompt_ids"].shape, batch["response_ids"].shape
    return (rows - groups) * prompt / (rows * (prompt + response))


def _whole_sequences(trunk: nn.Module, batch: Batch) -> Tensor:
    rows = batch["group_index"]
    ids = torch.cat([batch["prompt_ids"][rows], batch["response_ids"]], dim=1)
    mask = torch.cat([batch["prompt_mask"][rows], batch["response_mask"]], dim=1)
    output = trunk(input_ids=ids, attention_mask=mask, position_ids=_positions(mask), use_cache=False)
    return output.last_hidden_state[:, batch["prompt_ids"].shape[1] - 1 :]


def _shared_prefix(trunk: nn.Module, batch: Batch) -> Tensor:
    rows, prompt_length = batch["group_index"], batch["prompt_ids"].shape[1]
    cache = DynamicCache()
    prompt = trunk(
        input_ids=batch["prompt_ids"],
        attention_mask=batch["prompt_mask"],
        position_ids=_positions(batch["prompt_mask"]),
        past_key_values=cache,
        use_cache=True,
    ).last_hidden_state[:, -1:]
    cache.batch_select_indices(rows)
    mask = torch.cat([batch["prompt_mask"][rows], batch["response_mask"]], dim=1)
    response = trunk(
        input_ids=batch["response_ids"],
        attention_mask=mask,
        position_ids=_positions(mask)[:, prompt_length:],
        past_key_values=cache,
        use_cache=True,
    ).last_hidden_state
    return torch.cat([prompt[rows], response], dim=1)


def _positions(mask: Tensor) -> Tensor:
    return (mask.cumsum(dim=1) - 1).clamp(min=0)
