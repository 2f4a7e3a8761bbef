"""Groups as one packed sequence: a prompt is computed once, and nothing is padded.

A batch of G prompts with B responses is one row of L tokens: each prompt, followed by its responses. All layers of a
decoder except attention treat each token separately, so they need no padding. `packed_attention` lets a prompt attend
to itself, and a response to its prompt and itself. The model is called once, as usual. So mixed precision,
distribution, adapters and gradient checkpointing work unchanged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, NamedTuple, TypedDict, TypeVar, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import AttentionInterface


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
"""The name of `packed_attention` in transformers (`set_attn_implementation`)."""


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
    own index.
    """

    lengths: list[int]
    prompt_of: list[int]
    masks: dict[tuple[int, int, int | None, torch.dtype], Tensor] = field(default_factory=dict)
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

    def positions(self, device: torch.device) -> Int[Tensor, " L"]:
        """Each token's position in its own text: a response continues the positions of its prompt."""
        starts = [0 if at == prompt else self.lengths[prompt] for at, prompt in enumerate(self.prompt_of)]
        return torch.cat(
            [torch.arange(start, start + n, device=device) for start, n in zip(starts, self.lengths, strict=True)]
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
        """The attention mask, 0 or -inf, of queries at the last positions of `before + length` keys."""
        length = query.shape[2]
        key = (before, length, window, query.dtype)
        if key not in self.masks:
            position = torch.arange(before, before + length, device=query.device)[:, None]
            seen = torch.arange(before + length, device=query.device)
            hidden = seen > position
            if window is not None:
                hidden |= seen <= position - window
            mask = torch.zeros(hidden.shape, dtype=query.dtype, device=query.device)
            self.masks[key] = mask.masked_fill_(hidden, float("-inf"))
        return self.masks[key]


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
    packing: Packing | None = None,
    **_: Any,
) -> tuple[Float[Tensor, "1 L H d"], None]:
    """Causal attention within each prompt, and from each response to its prompt and itself.

    The decoders of transformers call it as their attention. It supports grouped keys, sliding windows and soft-capped
    scores.

    Raises RuntimeError if the model does not pass `packing`, or uses dropout.
    """
    if packing is None or attention_mask is not None:
        raise RuntimeError(f"{type(module).__name__} was called without a packed batch; use qstep.models to call it")
    if dropout:
        raise RuntimeError(f"{type(module).__name__} drops out attention: load the model with qstep.models")
    query, key = query.to(value.dtype), key.to(value.dtype)
    if softcap is None and _flash_attention_takes(query):
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
        outputs.append(_attend(q, k, v, packing, before, scaling, sliding_window, softcap) if q.shape[2] else q)
    return torch.cat(outputs, dim=2).transpose(1, 2), None


def _flash_attention_takes(query: Tensor) -> bool:
    """Whether FlashAttention can run: half precision, a GPU since Ampere, and a supported head width."""
    if not query.is_cuda or query.dtype not in (torch.float16, torch.bfloat16):
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
) -> Tensor:
    length = query.shape[2]
    if window is not None and before + length <= window:
        window = None
    grouped = key.shape[1] != query.shape[1]
    plain = before == 0 and window is None
    if softcap is None and (plain or not query.is_cuda):
        mask = None if plain else packing.mask(before, window, query)
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, is_causal=plain, scale=scaling, enable_gqa=grouped
        )
    mask = packing.mask(before, window, query)
    if grouped:  # no GPU kernel takes both grouped keys and a mask
        repeats = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(repeats, dim=1), value.repeat_interleave(repeats, dim=1)
    if softcap is None:
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scaling)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    scores = softcap * torch.tanh(query @ key.transpose(2, 3) * scale / softcap)
    return (scores + mask).float().softmax(dim=-1).to(value.dtype) @ value


AttentionInterface.register(PACKED_ATTENTION, packed_attention)


def packed_hidden(trunk: nn.Module, batch: Batch) -> Float[Tensor, "L D"]:
    """The last hidden state of every token of a batch. `trunk` is a decoder without its head."""
    packing = Packing.of(batch)
    ids = batch["input_ids"].unsqueeze(0)
    positions = packing.positions(ids.device).unsqueeze(0)
    try:
        output = trunk(input_ids=ids, position_ids=positions, use_cache=False, packing=packing)
    except IndexError as error:
        raise ValueError(
            f"a token is outside the model's vocabulary, or a prompt and response of {int(positions.max()) + 1} tokens "
            f"are longer than its positions ({error})"
        ) from error
    return output.last_hidden_state.squeeze(0)


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
