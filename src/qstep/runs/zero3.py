"""DeepSpeed's ZeRO-3, which divides what FSDP2 divides. qstep trains with FSDP2 where it is asked for."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_USE = "ACCELERATE_USE_DEEPSPEED"
"""Environment variable that `accelerate launch` sets to true if its configuration has DeepSpeed."""
_PREFIX = "ACCELERATE_DEEPSPEED_"

_INSTEAD = {
    "train_batch_size": "--per_device_train_batch_size",
    "train_micro_batch_size_per_gpu": "--per_device_train_batch_size",
    "gradient_accumulation_steps": "--gradient_accumulation_steps",
    "gradient_clipping": "--max_grad_norm",
    "optimizer": "--optim and --learning_rate",
    "scheduler": "--lr_scheduler_type and --warmup_steps",
    "fp16": "--fp16 true",
    "bf16": "--bf16 true",
    "activation_checkpointing": "--activation_checkpointing true",
}
"""Sections of DeepSpeed's configuration, and the options that qstep has for them."""


def takes_zero3(deepspeed: str | Mapping[str, Any] | None) -> bool:
    """Whether ZeRO-3 is asked for, by `--deepspeed` or by `accelerate launch`. If so, FSDP2 takes its place.

    The launcher's environment variable is removed then, so that accelerate does not follow it too.

    Raises ValueError for settings that qstep does not follow, and for a file that is no configuration.
    """
    launched = deepspeed is None and os.environ.get(_USE, "").lower() == "true"
    if launched:
        deepspeed = os.environ.get(f"{_PREFIX}CONFIG_FILE")
    config = _read(deepspeed) if deepspeed else {}
    zero: dict[str, Any] = dict(config.get("zero_optimization") or {})
    if launched and not config:
        zero = {"stage": os.environ.get(f"{_PREFIX}ZERO_STAGE", "2")}
        for part in ("optimizer", "param"):
            zero[f"offload_{part}"] = {"device": os.environ.get(f"{_PREFIX}OFFLOAD_{part.upper()}_DEVICE")}
    if str(zero.get("stage")) != "3":
        return False
    for name in ("offload_optimizer", "offload_param"):
        device = (zero.get(name) or {}).get("device")
        if device not in (None, "none"):
            raise ValueError(f"DeepSpeed's {name} is on {device}, but qstep offloads nothing: set it to none")
    for name, option in _INSTEAD.items():
        if not _is_auto(config.get(name)):
            raise ValueError(f"DeepSpeed's {name} is {config[name]!r}: set it to auto, and give {option} instead")
    os.environ.pop(_USE, None)
    return True


def _read(deepspeed: str | Mapping[str, Any]) -> Mapping[str, Any]:
    if isinstance(deepspeed, Mapping):
        return deepspeed
    try:
        text = deepspeed if deepspeed.lstrip().startswith("{") else Path(deepspeed).read_text(encoding="utf-8")
        found = json.loads(text)
    except OSError as error:
        raise ValueError(f"--deepspeed {deepspeed}: {error.strerror}") from None
    except ValueError as error:
        raise ValueError(f"--deepspeed {deepspeed} is no JSON: {error}") from None
    if not isinstance(found, dict):
        raise ValueError(f"--deepspeed {deepspeed} is no configuration of DeepSpeed: it must be an object")
    return found


def _is_auto(value: Any) -> bool:
    """Whether a setting is left to the command's own options. What is switched off has no effect."""
    if isinstance(value, Mapping) and "enabled" in value:
        return value["enabled"] in (False, "auto")
    if isinstance(value, Mapping):
        return all(name == "type" or _is_auto(part) for name, part in value.items())
    return value in (None, "auto")
