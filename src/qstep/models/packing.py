"""Groups as one packed sequence: a prompt is computed once, and nothing is padded.

A batch of G prompts with B responses is one row of L tokens: each prompt, followed by its responses. In most
decoders all layers except attention treat each token separately, so they need no padding. `packed_attention` lets a
prompt attend to itself, and a response to its prompt and itself. The model is called once, as usual. So mixed
precision, distribution, adapters and gradient checkpointing work unchanged.

Models whose layers carry a state along the sequence, or whose attention cannot be replaced, compute the same batch with
copies of the prompts: in one row if kernels keep its texts apart, else in padded rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, NamedTuple, TypedDict, TypeVar, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from qstep.models.padding import copied_rows, padded_hidden
from qstep.models.rope import check_rope


class Batch(TypedDict):
    """Groups as one row of tokens: a plain dict, so that `transformers.Trainer` can move it between devices."""

    input_ids: Int[Tensor, " L"]
    """Each prompt, followed by its responses."""
    prompt_lengths: Int[Tensor, " G"]
    """In tokens, like `response_lengths`."""
    response_lengths: Int[Tensor, " B"]
    group_index: Int[Tensor, " B"]
    """The prompt of each response."""
    response_ids: Int[Tensor, "B T"]
    """Padded on the right, for the losses."""
    response_mask: Int[Tensor, "B T"]
    """1 where a token of the model's is. Others' turns within a response have 0."""


class StepBatch(Batch):
    """Groups with the positions where the Qs of their steps are read."""

    step_ends: Int[Tensor, "B S"]
    """The index of each step's separator among the response's tokens; -1 if there is no step."""


AnyBatch = TypeVar("AnyBatch", bound=Batch)

PACKED_ATTENTION = "qstep_packed"
"""The name of `qstep.models.attention.packed_attention` in transformers (`set_attn_implementation`)."""


def collate_groups(prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[Sequence[int]]]) -> Batch:
    """Builds a batch from the token ids of G prompts and of the responses to each.

    Raises ValueError for a prompt without tokens, since nothing would predict the first token of its responses.
    """
    if not all(map(len, prompts)):
        raise ValueError(f"prompt {[*map(len, prompts)].index(0)} of the batch has no tokens; give it at least one")
    members = [ids for group in responses for ids in group]
    segments = [ids for prompt, group in zip(prompts, responses, strict=True) for ids in (prompt, *group)]
    lengths = torch.tensor([len(ids) for ids in members], dtype=torch.long)
    width = int(lengths.max()) if members else 0
    return {
        "input_ids": torch.tensor([token for ids in segments for token in ids], dtype=torch.long),
        "prompt_lengths": torch.tensor([len(prompt) for prompt in prompts], dtype=torch.long),
        "response_lengths": lengths,
        "group_index": torch.tensor([g for g, group in enumerate(responses) for _ in group], dtype=torch.long),
        "response_ids": torch.tensor([[*ids, *[0] * (width - len(ids))] for ids in members], dtype=torch.long).view(
            len(members), width
        ),
        "response_mask": (torch.arange(width) < lengths[:, None]).long(),
    }


def with_prompts(batch: Batch, prompts: Sequence[Sequence[int]]) -> Batch:
    """The responses of a batch after other prompts, one for each group."""
    responses: list[list[list[int]]] = [[] for _ in prompts]
    each = zip(*(batch[name].tolist() for name in ("group_index", "response_lengths", "response_ids")), strict=True)
    for group, length, ids in each:
        responses[group].append(ids[:length])
    other = collate_groups(prompts, responses)
    return {**batch, "input_ids": other["input_ids"], "prompt_lengths": other["prompt_lengths"]}


def moved(batch: AnyBatch, device: torch.device) -> AnyBatch:
    """The batch on another device."""
    tensors = cast("dict[str, Tensor]", batch)
    return cast("AnyBatch", {name: tensor.to(device) for name, tensor in tensors.items()})


class Spans(NamedTuple):
    """The queries and keys of S segments, one after another.

    key_positions: the index of each key in the packed row. query_starts, key_starts: [S + 1], the first index of each
    segment's queries and keys.
    """

    key_positions: Int[Tensor, " N"]
    query_starts: Int[Tensor, " S+1"]
    key_starts: Int[Tensor, " S+1"]
    longest_query: int
    longest_key: int


@dataclass(frozen=True)
class Packing:
    """The segments of a batch: each prompt, then its responses. Every attention layer receives it.

    lengths: tokens of each segment. prompt_of: for each segment, the index of its prompt's segment; for a prompt, its
    own index. masks, kept: what `mask` and `spans` have computed.
    """

    lengths: list[int]
    prompt_of: list[int]
    masks: dict[tuple[int, int | None, torch.dtype], Tensor] = field(default_factory=dict)
    kept: list[Spans] = field(default_factory=list)

    @classmethod
    def of(cls, batch: Batch) -> Packing:
        prompts, lengths = batch["prompt_lengths"].tolist(), batch["response_lengths"].tolist()
        sizes: list[int] = []
        prompt_of: list[int] = []
        members: list[list[int]] = [[] for _ in prompts]
        for length, group in zip(lengths, batch["group_index"].tolist(), strict=True):
            members[group].append(length)
        for prompt, group_lengths in zip(prompts, members, strict=True):
            prompt_of += [len(sizes)] * (1 + len(group_lengths))
            sizes += [prompt, *group_lengths]
        return cls(sizes, prompt_of)

    @property
    def starts(self) -> list[int]:
        """The position of each segment's first token in its own text: a response continues its prompt."""
        return [0 if at == prompt else self.lengths[prompt] for at, prompt in enumerate(self.prompt_of)]

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt with its response."""
        return max(start + length for start, length in zip(self.starts, self.lengths, strict=True))

    def positions(self, device: torch.device) -> Int[Tensor, " L"]:
        """Each token's position in its own text."""
        return torch.cat(
            [torch.arange(start, start + n, device=device) for start, n in zip(self.starts, self.lengths, strict=True)]
        )

    def spans(self, device: torch.device) -> Spans:
        """What each segment attends to: its prompt and itself."""
        if not self.kept:
            own = torch.arange(sum(self.lengths)).split(self.lengths)
            seen = [
                span if at == prompt else torch.cat([own[prompt], span])
                for at, (prompt, span) in enumerate(zip(self.prompt_of, own, strict=True))
            ]
            queries, keys = [*map(len, own)], [*map(len, seen)]
            query_starts, key_starts = (
                torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=device) for lengths in (queries, keys)
            )
            positions = torch.cat(seen).to(device)
            self.kept.append(Spans(positions, query_starts, key_starts, max(queries), max(keys)))
        return self.kept[0]

    def mask(self, before: int, window: int | None, query: Tensor) -> Tensor:
        """The attention mask, 0 or -inf, of queries at the last positions of `before + length` keys.

        One mask is kept for each `before`, of the longest response there. Those of shorter ones are its corners.
        """
        key = (before, window, query.dtype)
        if key not in self.masks:
            each = zip(self.starts, self.lengths, strict=True)
            longest = max(length for start, length in each if start == before)
            position = torch.arange(before, before + longest, device=query.device)[:, None]
            seen = torch.arange(before + longest + -(before + longest) % 16, device=query.device)  # aligned on a GPU
            hidden = seen > position
            if window is not None:
                hidden |= seen <= position - window
            mask = torch.zeros(hidden.shape, dtype=query.dtype, device=query.device)
            self.masks[key] = mask.masked_fill_(hidden, float("-inf"))
        length = query.shape[2]
        return self.masks[key][:length, : before + length]


def trunk_of(model: PreTrainedModel) -> nn.Module:
    """A model without its head. It gives the last hidden states."""
    trunk = model.base_model
    return model.get_submodule("model") if trunk is model else trunk


def hidden_states(trunk: nn.Module, batch: Batch) -> Float[Tensor, "L D"]:
    """The last hidden state of every token of a batch: packed, or padded if `pack` has found that it has to be."""
    return states_of(trunk, batch["input_ids"], Packing.of(batch))


def states_of(trunk: nn.Module, ids: Int[Tensor, " L"], packing: Packing) -> Float[Tensor, "L D"]:
    """`hidden_states` of token ids, whose segments `packing` has."""
    check_rope(packing.longest, cast("Any", trunk).rope_limit)
    try:
        if not is_packed(trunk):
            return padded_hidden(trunk, ids, packing)
        if cast("Any", trunk).copies_prompts:
            return _copied(trunk, ids, packing)
        positions = packing.positions(ids.device).unsqueeze(0)
        output = trunk(input_ids=ids.unsqueeze(0), position_ids=positions, use_cache=False, packing=packing)
        return output.last_hidden_state.squeeze(0)
    except IndexError as error:
        raise ValueError(
            f"a token is outside the model's vocabulary, or a prompt and response of {packing.longest} tokens are "
            f"longer than its positions ({error})"
        ) from error


def _copied(trunk: nn.Module, ids: Int[Tensor, " L"], packing: Packing) -> Float[Tensor, "L D"]:
    """`states_of` by one row in which each response follows a copy of its prompt.

    Layers with a state get the beginnings of texts, as arguments of transformers, and their kernels keep texts apart.
    """
    rows = copied_rows(packing)
    lengths = [len(row.places) for row in rows]
    texts = Packing(lengths, [*range(len(rows))])
    starts = [0, *accumulate(lengths)]
    number = torch.repeat_interleave(torch.tensor(lengths)).to(ids.device, torch.int32)
    output = trunk(
        input_ids=ids[torch.cat([row.places for row in rows]).to(ids.device)].unsqueeze(0),
        position_ids=texts.positions(ids.device).unsqueeze(0),
        use_cache=False,
        packing=texts,
        seq_idx=number.unsqueeze(0),
        cu_seq_lens_q=torch.tensor(starts, dtype=torch.int32, device=ids.device),
    )
    places = torch.cat([row.places[row.first :] for row in rows])
    read = [torch.arange(row.first, len(row.places)) + start for start, row in zip(starts[:-1], rows, strict=True)]
    found = torch.cat(read)
    return output.last_hidden_state[0].index_select(0, found[places.argsort()].to(ids.device))


def is_packed(model: nn.Module) -> bool:
    """Whether the model computes packed rows."""
    config: Any = model.config
    return config._attn_implementation == PACKED_ATTENTION


def response_starts(batch: Batch) -> tuple[Int[Tensor, " B"], Int[Tensor, " B"]]:
    """For each response, the index of its first token in the packed row, and that of its prompt's last token."""
    lengths, groups = batch["response_lengths"], batch["group_index"]
    before = lengths.cumsum(0) - lengths  # tokens of earlier responses
    through_prompt = batch["prompt_lengths"].cumsum(0)[groups]
    starts = through_prompt + before
    first_of_group = torch.zeros_like(batch["prompt_lengths"])
    first_of_group.scatter_reduce_(0, groups, before, "amin", include_self=False)
    return starts, through_prompt + first_of_group[groups] - 1


def states_before(hidden: Float[Tensor, "L D"], batch: Batch) -> Float[Tensor, "M D"]:
    """The states in which the M response tokens were chosen, in the order of the ones in `response_mask`."""
    starts, prompt_ends = response_starts(batch)
    mask = batch["response_mask"].bool()
    index = starts[:, None] - 1 + torch.arange(mask.shape[1], device=mask.device)
    if index.shape[1]:
        index[:, 0] = prompt_ends
    return hidden.index_select(0, index[mask])
