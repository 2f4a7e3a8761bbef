"""Sampling inside this process from any causal language model of transformers.

The unit of work is a state: a prompt and the tokens after it. Every row of a request starts from one state. Rows that
draw the same token in the same state continue as one state, so that no sequence is computed twice. Samples of a
confident model share most of their steps. The states of many requests are decoded together, and a state
whose rows have all ended leaves batch and cache.

Dimensions: R rows, S states, V vocabulary, T new tokens, L positions.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.cache_utils import DynamicLayer

from qstep.data import decode_text
from qstep.generation.cached_model import CachedModel
from qstep.generation.drawing import choose, uniforms
from qstep.generation.engine import Request, SamplingSettings, check_length
from qstep.generation.states import GrowingLayer, hosts_of, next_states, take_beginnings
from qstep.models.ends import end_tokens
from qstep.models.packable import eval_mode
from qstep.models.rope import rope_limit
from qstep.types import Ending, Response

_LOOKAHEAD = 4
"""Number of batches read ahead, so that prompts of similar length can be batched together."""


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
            generation config, and the token by which its chat template ends a turn.
        max_rows: maximum number of responses decoded at once. It bounds the logits, `[max_rows, V]`.
        max_tokens: maximum number of positions in the key-value cache, which bounds its memory. Each row counts with
            its prompt and its full `max_new_tokens`. A row that is longer than this is decoded alone.

    Raises:
        ValueError: neither model nor tokenizer has an end-of-sequence token, a limit is below 1, or the model's cache
            cannot be used (see `CachedModel`).
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
        self.eos_ids = end_tokens(model, tokenizer)
        if not self.eos_ids:
            raise ValueError(
                "no end-of-sequence token: set eos_token_id in the model's generation config or the tokenizer"
            )
        self.positions = _positions(model)
        self._cached = CachedModel(model)
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
        if self.positions is not None:
            check_length(request, settings, self.positions)
        vocabulary = self.model.config.get_text_config(decoder=True).vocab_size
        lowest, highest = min(request.prompt_ids), max(request.prompt_ids)
        if lowest < 0 or highest >= vocabulary:
            raise ValueError(
                f"request {request.key!r}: prompt_ids range from {lowest} to {highest}, outside the model's "
                f"vocabulary of {vocabulary}. Use the model's own tokenizer"
            )

    def _batches(self, rows: list[_Row], settings: SamplingSettings) -> list[list[_Row]]:
        """Divides rows into batches within both limits, longest prompts first to reduce padding.

        Where layers carry a state along the sequence, a batch has prompts of one length, since padding would enter it.
        """
        batches: list[list[_Row]] = []
        limit = 0
        for row in sorted(rows, key=lambda row: -row.prompt_length):
            full = not batches or len(batches[-1]) == limit
            if full or not (self._cached.takes_padding or batches[-1][-1].prompt_length == row.prompt_length):
                limit = min(self.max_rows, self.max_tokens // (row.prompt_length + settings.max_new_tokens))
                limit = max(limit, 1)
                batches.append([])
            batches[-1].append(row)
        return batches

    @torch.inference_mode()
    def _decode(self, rows: list[_Row], settings: SamplingSettings) -> list[Response]:
        """Draws one response per row."""
        limits_R = torch.tensor([row.job.request.limit(settings) for row in rows], device=self.model.device)
        with eval_mode(self.model):
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
        uniforms_RT = uniforms([(row.job.request.key, row.sample) for row in rows], settings).to(device)
        tokens_RT = torch.full((len(rows), settings.max_new_tokens), self.eos_ids[0], device=device)
        logps_RT = torch.zeros((len(rows), settings.max_new_tokens), device=device)
        live_R = torch.arange(len(rows), device=device)
        stepped_R = [False] * len(rows)
        for step in range(settings.max_new_tokens):
            token_R, logp_R = choose(logits_SV, state_R, uniforms_RT[live_R, step], settings)
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
            source_S, token_S, state_R = next_states(state_R, token_R, len(logits_SV))
            if source_S is not None:
                cache.reorder_cache(source_S)
                pads_S, mask_SL = pads_S[source_S], mask_SL[source_S]
            mask = mask_SL[:, : width + step + 1] if padded else None  # without padding the model needs none
            _, logits_SV = self._cached(token_S[:, None], (width + step - pads_S)[:, None], mask, cache)
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
        hosts = hosts_of(prompts)
        longest = sorted({*hosts})
        if len(longest) < len(prompts) and self._keeps_all:
            cache, _ = self._forward([prompts[i][:-1] for i in longest])
            self._keeps_all = all(type(layer) is DynamicLayer for layer in cache.layers)
            if self._keeps_all:
                place = {host: row for row, host in enumerate(longest)}
                row_S = torch.tensor([place[host] for host in hosts], device=device)
                take_beginnings(cache, row_S, pads_S, pads_S[hosts])
                last = torch.tensor([prompt[-1:] for prompt in prompts], device=device)
                mask = torch.arange(width, device=device) >= pads_S[:, None]
                cache, logits_SV = self._cached(last, (width - 1 - pads_S)[:, None], mask, cache)
                return cache, logits_SV, pads_S, state_R, width
        cache, logits_SV = self._forward(prompts)
        cache.layers = [GrowingLayer(layer) if _grows(layer) else layer for layer in cache.layers]
        return cache, logits_SV, pads_S, state_R, width

    def _forward(self, prompts: Sequence[Sequence[int]]) -> tuple[Any, Tensor]:
        """The `Cache` of prompts, left-padded to the longest, and their next-token logits `[S, V]`."""
        device = self.model.device
        width = max(map(len, prompts))
        padding = [width - len(prompt) for prompt in prompts]
        inputs = torch.tensor(
            [[0] * pad + [*prompt] for pad, prompt in zip(padding, prompts, strict=True)], device=device
        )
        positions = torch.arange(width, device=device) - torch.tensor(padding, device=device)[:, None]
        return self._cached(inputs, positions.clamp(min=0), positions >= 0 if any(padding) else None)

    def _eos_tensor(self) -> Tensor:
        return torch.tensor(self.eos_ids, device=self.model.device)


def _grows(layer: Any) -> bool:
    """Whether a layer of a cache keeps all keys, and has some: those that read an encoder have none here."""
    return type(layer) is DynamicLayer and layer.keys is not None


def _positions(model: PreTrainedModel) -> int | None:
    """The maximum number of tokens of a prompt and its response; None if the model has no limit."""
    positions = getattr(model.config.get_text_config(decoder=True), "max_position_embeddings", None)
    return min((limit for limit in (positions, rope_limit(model)) if limit is not None), default=None)
