"""Sampling inside this process from any causal language model of transformers.

The unit of work is a state: a prompt and the tokens after it. Every row of a request starts from one state. Rows that
draw the same token in the same state continue as one state, so that no sequence is computed twice. Samples of a
confident model share most of their steps. The states of many requests are decoded together,
and a state whose rows have all ended leaves batch and cache.

Dimensions: R rows, S states, V vocabulary, T new tokens, L positions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.cache_utils import DynamicLayer

from qstep.data import decode_text
from qstep.generation.engine import Request, SamplingSettings, check_length
from qstep.types import Ending, Response

_LOOKAHEAD = 4
"""Number of batches read ahead, so that prompts of similar length can be batched together."""

_DROP_SHARE = 1 / 8
"""The share of ended states at which the batch is compacted. Keeping them costs compute, removing them a copy."""

_ROOM = 64
"""Minimum number of positions by which a key-value buffer grows."""


@dataclass(slots=True)
class _Job:
    request: Request
    responses: dict[int, Response] = field(default_factory=dict)


@dataclass(slots=True)
class _Row:
    job: _Job
    sample: int

    @property
    def prompt_length(self) -> int:
        return len(self.job.request.prompt_ids)


class HFEngine:
    """Samples from a model of transformers in this process, on the CPU or a GPU.

    Each row has its own random numbers, seeded by (seed, key, sample). So its tokens are independent of the other rows
    in the batch, up to floating-point rounding. Kernels may round differently for other batch shapes. A draw that is
    this close to the boundary between two tokens can go either way.

    Args:
        model: a decoder with a language-modelling head. Its mode (train or eval) is restored afterwards.
        tokenizer: decodes the responses. Its end-of-sequence token ends a response, as do those of the model's
            generation config.
        max_rows: maximum number of responses decoded at once. It bounds the logits, `[max_rows, V]`.
        max_tokens: maximum number of positions in the key-value cache, which bounds its memory. Each row counts with
            its prompt and its full `max_new_tokens`. A row that is longer than this is decoded alone.

    Raises:
        ValueError: neither model nor tokenizer has an end-of-sequence token, or a limit is below 1.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_rows: int = 1024,
        max_tokens: int = 131_072,
    ) -> None:
        if max_rows < 1 or max_tokens < 1:
            raise ValueError(f"max_rows ({max_rows}) and max_tokens ({max_tokens}) must be at least 1")
        self.model = model
        self.tokenizer = tokenizer
        self.max_rows = max_rows
        self.max_tokens = max_tokens
        self.eos_ids = _eos_ids(model, tokenizer)
        self._completes: dict[tuple[str, int], bool] = {}
        self._keeps_all = True  # whether the cache is known to keep the keys of every position

    def __repr__(self) -> str:
        model = self.model
        dtype = str(model.dtype).removeprefix("torch.")
        return f"HFEngine({type(model).__name__} {model.name_or_path!r}, {model.device}, {dtype})"

    def sample(
        self, requests: Iterable[Request], settings: SamplingSettings
    ) -> Iterator[tuple[Request, list[Response]]]:
        """Yields every request once with its responses, batch by batch. See `Engine.sample`.

        Raises:
            ValueError: the prompt plus `max_new_tokens` exceeds the model's positions (nothing is truncated), or a
                token is outside its vocabulary.
            FloatingPointError: the model's logits are not finite.
        """
        source = iter(requests)
        waiting: list[_Row] = []
        exhausted = False
        while not exhausted:
            exhausted = True
            for request in source:
                self._check(request, settings)
                job = _Job(request)
                waiting.extend(_Row(job, sample) for sample in request.samples)
                if len(waiting) >= _LOOKAHEAD * self.max_rows:
                    exhausted = False
                    break
            batches = self._batches(waiting, settings)
            # Rows that do not fill a batch wait for more, unless there are no more.
            waiting = [] if exhausted or len(batches) == 1 else batches.pop()
            for batch in batches:
                for row, response in zip(batch, self._decode(batch, settings), strict=True):
                    job = row.job
                    job.responses[row.sample] = response
                    if len(job.responses) == len(job.request.samples):
                        yield job.request, [job.responses[sample] for sample in job.request.samples]

    def _check(self, request: Request, settings: SamplingSettings) -> None:
        config = self.model.config.get_text_config(decoder=True)
        limit = getattr(config, "max_position_embeddings", None)
        if limit is not None:
            check_length(request, settings, limit)
        vocabulary = config.vocab_size
        lowest, highest = min(request.prompt_ids), max(request.prompt_ids)
        if lowest < 0 or highest >= vocabulary:
            raise ValueError(
                f"request {request.key!r}: prompt_ids range from {lowest} to {highest}, outside the model's "
                f"vocabulary of {vocabulary}. Use the model's own tokenizer"
            )

    def _batches(self, rows: list[_Row], settings: SamplingSettings) -> list[list[_Row]]:
        """Divides rows into batches within both limits, longest prompts first to reduce padding."""
        batches: list[list[_Row]] = []
        limit = 0
        for row in sorted(rows, key=lambda row: -row.prompt_length):
            if not batches or len(batches[-1]) == limit:
                limit = min(self.max_rows, self.max_tokens // (row.prompt_length + settings.max_new_tokens))
                limit = max(limit, 1)
                batches.append([])
            batches[-1].append(row)
        return batches

    @torch.inference_mode()
    def _decode(self, rows: list[_Row], settings: SamplingSettings) -> list[Response]:
        """Draws one response per row."""
        limits_R = torch.tensor([row.job.request.limit(settings) for row in rows], device=self.model.device)
        with _eval_mode(self.model):
            tokens_RT, logps_RT, stepped_R = self._decode_tokens(rows, limits_R, settings)
        ended_RT = torch.isin(tokens_RT, self._eos_tensor())
        first_end_R = torch.where(ended_RT.any(dim=1), ended_RT.int().argmax(dim=1), limits_R)
        stopped = first_end_R < limits_R
        lengths = torch.where(stopped, first_end_R + 1, limits_R).tolist()
        if not logps_RT.isfinite().all():
            raise FloatingPointError(
                "the model's logits are not finite, or overflow at this temperature "
                f"({settings.temperature}); check the checkpoint and its dtype"
            )
        endings: list[Ending] = [
            "stop" if stop else "step" if step else "length"
            for stop, step in zip(stopped.tolist(), stepped_R, strict=True)
        ]
        sampled = [ids[:length] for ids, length in zip(tokens_RT.tolist(), lengths, strict=True)]
        return [
            Response(row.sample, self.decode(ids[:-1] if ending == "stop" else ids), ids, logps[: len(ids)], ending)
            for row, ids, logps, ending in zip(rows, sampled, logps_RT.tolist(), endings, strict=True)
        ]

    def decode(self, token_ids: list[int]) -> str:
        """The text of a response's tokens, without the end-of-sequence token."""
        return decode_text(self.tokenizer, token_ids)

    def _decode_tokens(
        self, rows: list[_Row], limits_R: Tensor, settings: SamplingSettings
    ) -> tuple[Tensor, Tensor, list[bool]]:
        """Tokens and log-probs, `[R, T]` each, and whether a row reached `settings.stop`, which lowers its limit.

        Values after a row's end or limit are arbitrary.
        """
        device = self.model.device
        eos = self._eos_tensor()
        cache, logits_SV, pads_S, state_R, width = self._prefill(rows)
        padded = bool(pads_S.any())
        mask_SL = torch.arange(width + settings.max_new_tokens, device=device) >= pads_S[:, None]
        uniforms_RT = _uniforms(rows, settings).to(device)
        tokens_RT = torch.full((len(rows), settings.max_new_tokens), self.eos_ids[0], device=device)
        logps_RT = torch.zeros((len(rows), settings.max_new_tokens), device=device)
        live_R = torch.arange(len(rows), device=device)
        stepped_R = [False] * len(rows)
        for step in range(settings.max_new_tokens):
            token_R, logp_R = _choose(logits_SV, state_R, uniforms_RT[live_R, step], settings)
            tokens_RT[live_R, step] = token_R
            logps_RT[live_R, step] = logp_R
            if settings.stop is not None:
                for row in self._at_stop(settings.stop, live_R, token_R, tokens_RT[:, : step + 1]):
                    stepped_R[row] = True
                    limits_R[row] = step + 1
            going_R = ~torch.isin(token_R, eos) & (limits_R[live_R] > step + 1)
            live_R, state_R, token_R = live_R[going_R], state_R[going_R], token_R[going_R]
            if not len(live_R):
                break
            source_S, token_S, state_R = _next_states(state_R, token_R, len(logits_SV))
            if source_S is not None:
                cache.reorder_cache(source_S)
                pads_S, mask_SL = pads_S[source_S], mask_SL[source_S]
            # Without padding the model needs neither, because it skips the mask and counts positions itself.
            where: dict[str, Any] = {}
            if padded:
                where["attention_mask"] = mask_SL[:, : width + step + 1]
                where["position_ids"] = (width + step - pads_S)[:, None]
            output = self.model(input_ids=token_S[:, None], past_key_values=cache, use_cache=True, **where)
            logits_SV = output.logits[:, -1]
        return tokens_RT, logps_RT, stepped_R

    def _at_stop(self, stop: str, live_R: Tensor, token_R: Tensor, tokens_RT: Tensor) -> list[int]:
        """The rows whose new text contains `stop`.

        A row's text is decoded only if its latest token may have completed `stop`.
        """
        tokens = token_R.tolist()
        may = {token: self._may_complete(stop, token) for token in {*tokens}}
        rows = [row for row, token in zip(live_R.tolist(), tokens, strict=True) if may[token]]
        return [row for row, ids in zip(rows, tokens_RT[rows].tolist(), strict=True) if stop in self.decode(ids)]

    def _may_complete(self, stop: str, token: int) -> bool:
        """Whether a token may add the last character of `stop`: it contains that, or part of a multi-byte character.

        The token is decoded twice in a row, because a decoder may strip a leading blank.
        """
        if (stop, token) not in self._completes:
            text = self.decode([token, token])
            self._completes[stop, token] = stop[-1] in text or "\ufffd" in text
        return self._completes[stop, token]

    def _prefill(self, rows: list[_Row]) -> tuple[Any, Tensor, Tensor, Tensor, int]:
        """Computes each distinct prompt once, left-padded to one width.

        Returns the `Cache` of these first states, their next-token logits `[S, V]`, their padding `[S]`, the state of
        each row `[R]`, and the width.
        """
        device = self.model.device
        states: dict[tuple[int, ...], int] = {}
        state_R = torch.tensor(
            [states.setdefault(tuple(row.job.request.prompt_ids), len(states)) for row in rows], device=device
        )
        prompts = list(states)
        width = max(map(len, prompts))
        pads_S = torch.tensor([width - len(prompt) for prompt in prompts], device=device)
        hosts = _hosts(prompts)
        longest = sorted({*hosts})
        if len(longest) < len(prompts) and self._keeps_all:
            cache, _ = self._forward([prompts[i][:-1] for i in longest])
            self._keeps_all = all(type(layer) is DynamicLayer for layer in cache.layers)
            if self._keeps_all:
                place = {host: row for row, host in enumerate(longest)}
                row_S = torch.tensor([place[host] for host in hosts], device=device)
                _take_beginnings(cache, row_S, pads_S, pads_S[hosts])
                where = {
                    "attention_mask": torch.arange(width, device=device) >= pads_S[:, None],
                    "position_ids": (width - 1 - pads_S)[:, None],
                }
                last = torch.tensor([prompt[-1:] for prompt in prompts], device=device)
                output = self.model(input_ids=last, past_key_values=cache, use_cache=True, **where)
                return cache, output.logits[:, -1], pads_S, state_R, width
        cache, logits_SV = self._forward(prompts)
        cache.layers = [_GrowingLayer(layer) if type(layer) is DynamicLayer else layer for layer in cache.layers]
        return cache, logits_SV, pads_S, state_R, width

    def _forward(self, prompts: Sequence[Sequence[int]]) -> tuple[Any, Tensor]:
        """The `Cache` of prompts, left-padded to the longest, and their next-token logits `[S, V]`."""
        device = self.model.device
        width = max(map(len, prompts))
        padding = [width - len(prompt) for prompt in prompts]
        inputs = torch.tensor(
            [[0] * pad + [*prompt] for pad, prompt in zip(padding, prompts, strict=True)], device=device
        )
        where: dict[str, Any] = {}
        if any(padding):
            positions = torch.arange(width, device=device) - torch.tensor(padding, device=device)[:, None]
            where = {"attention_mask": positions >= 0, "position_ids": positions.clamp(min=0)}
        output = self.model(input_ids=inputs, use_cache=True, logits_to_keep=1, **where)
        return output.past_key_values, output.logits[:, -1]

    def _eos_tensor(self) -> Tensor:
        return torch.tensor(self.eos_ids, device=self.model.device)


class _GrowingLayer(DynamicLayer):
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


def _hosts(prompts: Sequence[tuple[int, ...]]) -> list[int]:
    """For each prompt, the index of the longest prompt that begins with it, or its own index.

    In the order of tokens, the prompts that begin with a prompt follow it directly.
    """
    order = sorted(range(len(prompts)), key=prompts.__getitem__, reverse=True)
    hosts = list(range(len(prompts)))
    for after, this in pairwise(order):
        if prompts[after][: len(prompts[this])] == prompts[this]:
            hosts[this] = hosts[after]
    return hosts


def _take_beginnings(cache: Any, row_S: Tensor, pads_S: Tensor, host_pads_S: Tensor) -> None:
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
        cache.layers[number] = _GrowingLayer(layer)


def _moved(states: Tensor, capacity: int) -> Tensor:
    """`states` at the front of a new buffer of `capacity` positions."""
    rows, heads, length, size = states.shape
    buffer = states.new_empty((rows, heads, capacity, size))
    buffer[:, :, :length] = states
    return buffer


def _next_states(state_R: Tensor, token_R: Tensor, states: int) -> tuple[Tensor | None, Tensor, Tensor]:
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


def _choose(
    logits_SV: Tensor, state_R: Tensor, uniforms_R: Tensor, settings: SamplingSettings
) -> tuple[Tensor, Tensor]:
    """The next token of every row, and its log-probability under the sampling distribution.

    The token is the inverse of its state's cumulative distribution at the row's uniform number. Greedy tokens get their
    log-probability at temperature 1.
    """
    if settings.temperature == 0:
        logps_SV = logits_SV.float().log_softmax(dim=-1)
        token_S = logps_SV.argmax(dim=-1)
        return token_S[state_R], logps_SV.gather(1, token_S[:, None]).squeeze(1)[state_R]
    logps_SV = (logits_SV.float() / settings.temperature).log_softmax(dim=-1)
    probs_SV = logps_SV.exp().double()
    if settings.top_p < 1:
        probs_SV = _nucleus(probs_SV, settings.top_p)
    reachable_SV = probs_SV > 0
    # A token without probability gets a bound that no uniform number is below. It is set explicitly, because a parallel
    # sum may not be monotone in its last bit.
    cumulative_SV = probs_SV.cumsum(dim=-1).where(reachable_SV, 0)
    # A uniform number below 1, scaled to the total mass, always selects a token.
    mass_S = cumulative_SV.amax(dim=-1)
    above_RV = cumulative_SV[state_R] > (uniforms_R * mass_S[state_R])[:, None]
    token_R = above_RV.to(torch.uint8).argmax(dim=-1)
    logp_R = logps_SV[state_R, token_R]
    if settings.top_p < 1:
        logp_R = logp_R - mass_S[state_R].log().float()
    return token_R, logp_R


def _nucleus(probs_SV: Tensor, top_p: float) -> Tensor:
    """Zeroes all but the smallest set of most likely tokens whose mass reaches `top_p`, without renormalising."""
    sorted_SV, order_SV = probs_SV.sort(dim=-1, descending=True, stable=True)
    mass_before_SV = sorted_SV.cumsum(dim=-1) - sorted_SV
    kept_SV = sorted_SV.masked_fill(mass_before_SV >= top_p, 0)
    return torch.zeros_like(probs_SV).scatter(1, order_SV, kept_SV)


def _uniforms(rows: list[_Row], settings: SamplingSettings) -> Tensor:
    """Numbers in [0, 1), `[R, T]`. Each row has a counter-based generator, keyed by (seed, key, sample)."""
    uniforms = np.empty((len(rows), settings.max_new_tokens))
    for row, out in zip(rows, uniforms, strict=True):
        name = repr((settings.seed, row.job.request.key, row.sample)).encode()
        key = int.from_bytes(hashlib.blake2b(name, digest_size=16).digest(), "little")
        np.random.Generator(np.random.Philox(key=key)).random(out=out)
    return torch.from_numpy(uniforms)


def _eos_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    declared = model.generation_config.eos_token_id if model.generation_config is not None else None
    ids = set(declared) if isinstance(declared, list) else {declared}
    ids = (ids | {tokenizer.eos_token_id}) - {None}
    if not ids:
        raise ValueError("no end-of-sequence token: set eos_token_id in the model's generation config or the tokenizer")
    return sorted(ids)


@contextmanager
def _eval_mode(model: torch.nn.Module) -> Iterator[None]:
    """Puts every module into eval mode, and restores train mode afterwards."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
