"""Preparing a model for packed batches, if its results stay the same there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from qstep.models.logps import finished_logits
from qstep.models.packing import PACKED_ATTENTION, collate_groups, moved, packed_hidden


@torch.no_grad()
def pack(model: PreTrainedModel) -> PreTrainedModel:
    """Lets the model attend within packed batches, after a check that its results stay the same.

    Raises ValueError if they do not, for example because its layers carry a state along the sequence. Also if its
    logits are not what `finished_logits` makes of its output embedding.
    """
    original = model.config._attn_implementation
    if original == PACKED_ATTENTION:
        return model
    training = model.training
    model.eval()
    trunk, tolerance = model.base_model, 1e-3 if model.dtype == torch.float32 else 0.1
    ids = [token % model.config.get_text_config().vocab_size for token in range(11, 18)]
    prompt, responses = ids[:3], [ids[3:5], ids[3:7]]
    hidden_size = model.config.get_text_config().hidden_size
    refusal = f"{type(model).__name__} ({model.config.model_type}) cannot be used:"
    expected = []
    for response in responses:
        inputs = torch.tensor([prompt + response], device=model.device)
        expected.append(trunk(input_ids=inputs, use_cache=False).last_hidden_state[0])
        if expected[-1].shape[-1] != hidden_size:
            raise ValueError(f"{refusal} its last states have {expected[-1].shape[-1]} entries, not {hidden_size}")
        head = model.get_output_embeddings()
        if head is not None:
            logits = finished_logits(model.config.get_text_config(), head(expected[-1]))
            if not _alike(model(input_ids=inputs, use_cache=False).logits[0], logits, tolerance):
                raise ValueError(
                    f"{refusal} its logits are not those of its output embedding, in a way that qstep does not know"
                )
    try:
        model.set_attn_implementation(PACKED_ATTENTION)
        model.unpacked_attention = original
        batch = moved(collate_groups([prompt], [responses]), model.device)
        hidden = packed_hidden(trunk, batch)
    except (TypeError, RuntimeError, ValueError) as error:
        raise ValueError(
            f"{refusal} its attention cannot be replaced by attention on packed batches: {error}"
        ) from error
    rows = [torch.cat([hidden[:3], hidden[3:5]]), torch.cat([hidden[:3], hidden[5:9]])]
    if not all(_alike(*pair, tolerance) for pair in zip(expected, rows, strict=True)):
        raise ValueError(f"{refusal} a response's states depend on the other responses of a packed batch")
    model.train(training)
    return model


@contextmanager
def unpacked(model: PreTrainedModel) -> Iterator[None]:
    """Lets a model of `pack` compute plain batches, for sampling, with the attention that it was loaded with."""
    packed: Any = model
    model.set_attn_implementation(packed.unpacked_attention)
    try:
        yield
    finally:
        model.set_attn_implementation(PACKED_ATTENTION)


def _alike(a: Tensor, b: Tensor, tolerance: float) -> bool:
    return bool((a - b).float().norm() <= tolerance * a.float().norm())
