"""Preparing a model for batches of groups: packed if its results stay the same there, else padded."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, DynamicCache, PreTrainedModel
from transformers.cache_utils import LinearAttentionCacheLayerMixin

from qstep.models.attention import NotPassedOn, packed_attention
from qstep.models.four_bits import keep_layout
from qstep.models.logps import finished_logits
from qstep.models.packing import PACKED_ATTENTION, Batch, collate_groups, hidden_states, is_packed, moved, trunk_of
from qstep.models.padding import caches_attention_only
from qstep.models.rope import rope_limit

_log = logging.getLogger(__name__)

_TOKENS = range(11, 18)
_WINDOW = 3
"""A window in which a token does not see all of the probe."""

_NO_ROOM = (torch.OutOfMemoryError, torch.AcceleratorError)
"""What the device reports. It says nothing about the model's layers."""

_STATE = "its layers carry a state along the sequence"

_WINDOWS = ("sliding_window", "attention_chunk_size")

AttentionInterface.register(PACKED_ATTENTION, packed_attention)


@torch.no_grad()
def pack(model: PreTrainedModel) -> PreTrainedModel:
    """Prepares a model for `hidden_states`, after a check that its results are those of each response alone.

    A model that computes something else in packed batches is used in padded ones, and a warning says so and why.

    Raises ValueError if its states depend on later tokens, or its logits are not what `finished_logits` makes of its
    output embedding.
    """
    marked: Any = model
    if hasattr(model, "unpacked_attention"):
        model.set_attn_implementation(marked.packed_attention)
        return model
    keep_layout(model)
    if is_packed(model):  # its config is that of a model that was prepared
        model.set_attn_implementation("sdpa" if model._supports_sdpa else "eager")
    marked.unpacked_attention = model.config._attn_implementation
    trunk: Any = trunk_of(model)
    trunk.rope_limit = rope_limit(model)
    trunk.shares_prompts = trunk.copies_prompts = trunk.is_called_once = False
    with eval_mode(model):
        probe = _Probe(model)
        if model.device.type == "meta":  # there are no values to compare
            reason = probe.try_packing()
        else:
            probe.check_head()
            probe.check_order()
            reason = probe.try_packing() or probe.packed_differs()
        if reason is not None:
            model.set_attn_implementation(marked.unpacked_attention)
            trunk.copies_prompts = False
            trunk.shares_prompts = caches_attention_only(model.config) and probe.continues_cache()
            _log.warning(
                "%s is computed in padded batches, which is slower than packed ones and gives the same numbers: %s",
                model.config.model_type,
                reason,
            )
    marked.packed_attention = model.config._attn_implementation
    return model


def unpack(model: PreTrainedModel) -> None:
    """Gives a model of `pack` the attention that it was loaded with, which plain batches and `generate` need."""
    marked: Any = model
    model.set_attn_implementation(marked.unpacked_attention)


class _Probe:
    """A prompt with two responses, which a model computes in different ways."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model, self.trunk, self.config = model, trunk_of(model), model.config.get_text_config()
        self.refusal = f"{type(model).__name__} ({model.config.model_type}) cannot be used:"
        self.tolerance = tolerance_of(model)
        self.noise = 1e-5 if model.dtype == torch.float32 else self.tolerance
        ids = [token % self.config.vocab_size for token in _TOKENS]
        self.prompt, self.responses = ids[:3], [ids[3:5], ids[3:7]]

    def check_head(self) -> None:
        states = self._alone(self.prompt + self.responses[1])
        if states.shape[-1] != self.config.hidden_size:
            size = self.config.hidden_size
            raise ValueError(f"{self.refusal} its last states have {states.shape[-1]} entries, not {size}")
        if (head := self.model.get_output_embeddings()) is None:
            return
        if (size := head.weight.shape[-1]) != states.shape[-1]:
            raise ValueError(f"{self.refusal} its output embedding reads {size} entries, not {states.shape[-1]}")
        inputs = torch.tensor([self.prompt + self.responses[1]], device=self.model.device)
        logits = self.model(input_ids=inputs, use_cache=False).logits[0]
        if not alike(logits, finished_logits(self.config, head(states)), self.tolerance):
            raise ValueError(
                f"{self.refusal} its logits are not those of its output embedding, in a way that qstep does not know"
            )

    def check_order(self) -> None:
        """A causal model gives a token the same state whatever comes after it."""
        ids = self.prompt + self.responses[1]
        if not alike(self._alone(ids[:-1]), self._alone(ids)[:-1], self.tolerance):
            raise ValueError(f"{self.refusal} its states depend on later tokens")

    def try_packing(self) -> str | None:
        """Switches the model to packed attention. Returns why its layers rule that out; None if they do not.

        Where layers carry a state, each response follows a copy of its prompt, and the layers' kernels have to keep
        them apart. Whether they do is found by `packed_differs`.
        """
        layers = DynamicCache(config=self.model.config).layers
        trunk: Any = self.trunk
        trunk.copies_prompts = any(isinstance(layer, LinearAttentionCacheLayerMixin) for layer in layers)
        if trunk.copies_prompts and self.model.device.type == "meta":  # the kernels are those of another machine
            return _STATE
        if getattr(self.config, "attention_chunk_size", None) is not None:
            return "its attention is in chunks"
        self.model.set_attn_implementation(PACKED_ATTENTION)
        if is_packed(self.trunk):
            return None
        return _STATE if trunk.copies_prompts else "its attention cannot be replaced"

    def packed_differs(self) -> str | None:
        """Why packed batches give other results than each response alone; None if they do not."""
        marked: Any = self.model
        trunk: Any = self.trunk
        self.model.set_attn_implementation(marked.unpacked_attention)
        try:
            expected = [self._alone(self.prompt + response) for response in self.responses]
            with short_windows(self.model):
                expected_short = [self._alone(self.prompt + response) for response in self.responses]
            self.model.set_attn_implementation(PACKED_ATTENTION)
            packed = self._packed(self.responses)
            with short_windows(self.model):
                packed_short = self._packed(self.responses)
            other = self._packed([self.responses[0][::-1], self.responses[1]])
        except NotPassedOn:
            return "its attention cannot be replaced"
        except _NO_ROOM:
            raise
        except (RuntimeError, TypeError, ValueError) as error:  # layers that compute something else than attention
            if trunk.copies_prompts:
                return f"{_STATE}. {error}" if "Install" in str(error) else _STATE
            return f"its layers fail on packed batches ({type(error).__name__}: {str(error).splitlines()[0]})"
        if not alike(other[1], packed[1], self.noise):
            return _STATE if trunk.copies_prompts else "its states depend on the other responses of a packed batch"
        pairs = zip([*expected, *expected_short], [*packed, *packed_short], strict=True)
        if not all(alike(*pair, self.tolerance) for pair in pairs):
            return _STATE if trunk.copies_prompts else "its states differ in a packed batch"
        return None

    def continues_cache(self) -> bool:
        """Whether responses that continue the cache of their prompt have the results of each response alone."""
        if self.model.device.type == "meta":
            return True
        trunk: Any = self.trunk
        trunk.shares_prompts = True
        expected = [self._alone(self.prompt + response) for response in self.responses]
        try:
            pairs = zip(expected, self._packed(self.responses), strict=True)
        except _NO_ROOM:
            raise
        except (AttributeError, RuntimeError, TypeError):  # layers without such a cache
            return False
        return all(alike(*pair, self.tolerance) for pair in pairs)

    def _alone(self, ids: list[int]) -> Tensor:
        inputs = torch.tensor([ids], device=self.model.device)
        return self.trunk(input_ids=inputs, use_cache=False).last_hidden_state[0]

    def _packed(self, responses: list[list[int]]) -> list[Tensor]:
        batch: Batch = moved(collate_groups([self.prompt], [responses]), self.model.device)
        prompt, first, second = hidden_states(self.trunk, batch).split([3, 2, 4])
        return [torch.cat([prompt, first]), torch.cat([prompt, second])]


@contextmanager
def short_windows(model: nn.Module) -> Iterator[None]:
    """Shortens the windows of a model's attention, in its config and in its layers, so that a few tokens tell."""
    holders = [model.config, model.config.get_text_config(), *model.modules()]  # type: ignore[union-attr,operator]
    found = [
        (holder, name, length)
        for holder in holders
        for name in _WINDOWS
        if isinstance(length := vars(holder).get(name), int) and length > _WINDOW
    ]
    for holder, name, _ in found:
        setattr(holder, name, _WINDOW)
    try:
        yield
    finally:
        for holder, name, length in found:
            setattr(holder, name, length)


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Puts every module into eval mode, and restores train mode afterwards."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def unpacked(model: PreTrainedModel) -> Iterator[None]:
    """Lets a model of `pack` compute plain batches, for sampling, with the attention that it was loaded with."""
    packed: Any = model
    now = model.config._attn_implementation
    model.set_attn_implementation(packed.unpacked_attention)
    try:
        yield
    finally:
        model.set_attn_implementation(now)


def tolerance_of(model: PreTrainedModel) -> float:
    """How far two ways to compute the same may differ, relative to its norm. Autocast counts as half precision."""
    kind = model.device.type
    rounds = kind != "meta" and torch.is_autocast_enabled(kind)
    return 1e-3 if model.dtype == torch.float32 and not rounds else 0.1


def alike(a: Tensor, b: Tensor, tolerance: float) -> bool:
    """Whether `b` differs from `a` by at most this part of the norm of `a`. Also if either is not a number."""
    return not bool((a - b).float().norm() > tolerance * a.float().norm())
