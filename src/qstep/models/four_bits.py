"""Frozen weights in 4 bits, by bitsandbytes."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch
from transformers import BitsAndBytesConfig, PreTrainedModel

from qstep.extras import missing


def four_bits() -> dict[str, Any]:
    """The arguments of `from_pretrained` that keep linear layers in NF4 and heads as they are.

    Raises ValueError if bitsandbytes is not installed.
    """
    if find_spec("bitsandbytes") is None:
        raise missing("--load_in_4bit", "bitsandbytes", "bnb")
    on_gpu = torch.cuda.is_available()
    half = on_gpu and torch.cuda.is_bf16_supported()
    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16 if half else torch.float32,
        llm_int8_skip_modules=["lm_head", "embed_out", "score", "classifier"],
    )
    return {"quantization_config": config, "device_map": {"": torch.cuda.current_device() if on_gpu else "cpu"}}


def keep_layout(model: PreTrainedModel) -> None:
    """Stops bitsandbytes from repacking the weights of an evaluated model on a CPU: they would have no gradients."""
    layers: list[Any] = [module for module in model.modules() if hasattr(module, "support_avx512bf16_for_cpu")]
    for layer in layers:
        layer.support_avx512bf16_for_cpu = False
