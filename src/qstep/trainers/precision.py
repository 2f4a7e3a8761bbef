"""Prepares a trainer for its device and its precision."""

from __future__ import annotations

import logging

import torch
from transformers import Trainer

from qstep.models import PretrainedModule
from qstep.models.inference import warn_of_slow_bf16
from qstep.processes import here
from qstep.runs.memory import return_freed_memory

_log = logging.getLogger(__name__)

_WIDE = 512
"""Hidden size from which a CPU can keep only a layer's products at almost no cost. In a tiny model this would double
the time of a step, because most of it is bookkeeping."""


def is_wide(model: PretrainedModule) -> bool:
    """Whether the model is so wide that a CPU should keep only its layers' products."""
    return bool(model.config.get_text_config().hidden_size >= _WIDE)


def prepare(trainer: Trainer, model: PretrainedModule) -> None:
    """Saves memory on a CPU if that is cheap, and scales the loss of fp16 training on a CPU too.

    Warns of trained weights in bf16, and of bf16 on a CPU without instructions for it. Raises ValueError if weights in
    fp16 would be trained in fp16.
    """
    args = trainer.args
    if any(p.dtype == torch.bfloat16 for p in model.parameters() if p.requires_grad) and here()[0] == 0:
        _log.warning(
            "The trained weights are in bf16. An update that is smaller than about 1/256 of a weight is rounded away, "
            "so at usual learning rates few weights change. Give --dtype float32 with --bf16, or train adapters "
            "(--use_peft)"
        )
    if here()[0] == 0 and (args.bf16 or any(p.dtype == torch.bfloat16 for p in model.parameters())):
        warn_of_slow_bf16(args.device, torch.bfloat16, "Leave out --bf16, and give --dtype float32")
    if is_wide(model) and args.device.type == "cpu" and not args.activation_checkpointing:
        model.keep_products_only()
    if args.device.type == "cpu" and args.activation_checkpointing:  # who recomputes wants memory more than time
        return_freed_memory()
    if args.fp16 and any(p.dtype == torch.float16 for p in model.parameters() if p.requires_grad):
        raise ValueError("--fp16 needs weights in fp32, but this model's are in fp16: give --dtype float32")
    if args.fp16 and args.device.type == "cpu":  # accelerate would silently compute in fp32
        trainer.accelerator.native_amp = True
        trainer.accelerator.scaler = torch.amp.GradScaler("cpu")
