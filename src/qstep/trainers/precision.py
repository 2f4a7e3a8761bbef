"""What the device and the precision ask of a trainer before its first step."""

from __future__ import annotations

import torch
from transformers import Trainer

from qstep.models import PretrainedModule

_WIDE = 512
"""Hidden size from which keeping a layer's products only costs a CPU next to nothing; in a tiny model it doubles the
time of a step, most of which is then bookkeeping."""


def prepare(trainer: Trainer, model: PretrainedModule) -> None:
    """Saves memory on a CPU where that is cheap, and scales fp16's loss there too.

    Raises ValueError for weights in fp16 that are to be trained in fp16.
    """
    args = trainer.args
    wide = model.config.get_text_config().hidden_size >= _WIDE
    if wide and args.device.type == "cpu" and not args.activation_checkpointing:
        model.keep_products_only()
    if args.fp16 and any(p.dtype == torch.float16 for p in model.parameters() if p.requires_grad):
        raise ValueError("--fp16 scales the gradients of weights in fp32, and these are in fp16: --dtype float32")
    if args.fp16 and args.device.type == "cpu":  # of which accelerate would say nothing, and compute in fp32
        trainer.accelerator.native_amp = True
        trainer.accelerator.scaler = torch.amp.GradScaler("cpu")
