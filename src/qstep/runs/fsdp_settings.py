"""Whether the weights of a training are divided among its processes: `--fsdp`, or accelerate's configuration."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from transformers import TrainingArguments
from transformers.training_args import OptimizerNames

USE_FSDP = "ACCELERATE_USE_FSDP"
"""Environment variable that `accelerate launch` sets to true if its configuration has FSDP."""
_PREFIX = "FSDP_"
"""Prefix of the variables with which it gives the other settings."""

_MUST_BE: dict[str, tuple[str, str]] = {
    "version": ("2", "FSDP1 is not supported"),
    "state_dict_type": ("FULL_STATE_DICT", "qstep writes complete weights, which any number of processes can resume"),
    "auto_wrap_policy": ("TRANSFORMER_BASED_WRAP", "qstep divides layer by layer"),
    "cpu_ram_efficient_loading": ("false", "each process reads the weights and keeps its share"),
    "offload_params": ("false", "weights stay on the accelerators"),
    "cpu_offload": ("false", "weights stay on the accelerators"),
    "activation_checkpointing": ("false", "give --activation_checkpointing true instead"),
    "ignored_modules": ("", "qstep divides all weights"),
    "transformer_layer_cls_to_wrap": ("", "qstep knows the model's layers"),
    "transformer_cls_to_wrap": ("", "qstep knows the model's layers"),
    "sharding_strategy": ("FULL_SHARD", "it is of FSDP1"),
    "min_num_params": ("0", "qstep divides layer by layer"),
    "xla": ("false", "XLA is not supported"),
    "xla_fsdp_v2": ("false", "XLA is not supported"),
    "xla_fsdp_grad_ckpt": ("false", "XLA is not supported"),
}
"""The settings that have one supported value, and why."""

_OPTIMIZERS = ("adamw_torch", "adamw_torch_fused", "sgd", "adagrad", "rmsprop")
"""Those of torch, which compute each process's shares."""


@dataclass(frozen=True)
class Sharding:
    """How weights, gradients and optimizer states are divided (FSDP2).

    reshard_after_forward: whether a layer's weights are divided again after its forward pass. False needs more memory
    and less communication.
    """

    reshard_after_forward: bool = True

    @classmethod
    def of(cls, args: TrainingArguments) -> Sharding | None:
        """What `--fsdp` and `--fsdp_config`, or the configuration of `accelerate launch`, ask for.

        Raises ValueError for settings that are not supported.
        """
        launched = _true(os.environ.get(USE_FSDP))
        settings: dict[str, Any] = dict(args.fsdp_config) if isinstance(args.fsdp_config, Mapping) else {}
        if not (args.fsdp or launched):
            if args.fsdp_config:
                raise ValueError("--fsdp_config is given without --fsdp true: remove it, or add that")
            return None
        for name in settings.keys() - {*_MUST_BE, "reshard_after_forward"}:
            raise ValueError(f"--fsdp_config: {name} has no effect. Remove it")
        names = [name for name in os.environ if launched and name.startswith(_PREFIX)]
        of_launch = {name.removeprefix(_PREFIX).lower(): os.environ[name] for name in names}
        for name, (wanted, why) in _MUST_BE.items():
            for value in (settings.get(name), of_launch.get(name)):
                if value is not None and str(value).lower() not in (wanted.lower(), "none", "[]"):
                    raise ValueError(f"fsdp_{name} is {value}, but it must be {wanted or 'left out'}: {why}")
        if args.deepspeed:
            raise ValueError("--fsdp and --deepspeed exclude each other: remove one")
        if (optim := OptimizerNames(args.optim).value) not in _OPTIMIZERS:
            raise ValueError(f"--optim {optim} does not work with --fsdp: give one of {', '.join(_OPTIMIZERS)}")
        return cls(_true((of_launch | settings).get("reshard_after_forward", True)))


def check_processes(args: TrainingArguments, processes: int | None = None) -> None:
    """Raises ValueError if weights are to be divided among processes, and there is one.

    Args:
        processes: their number, if it is not that of `args`.
    """
    if (processes or args.world_size) == 1 and Sharding.of(args) is not None:
        raise ValueError(
            "--fsdp divides weights among processes, but there is one. Start several: accelerate launch "
            "--num_processes 8 -m qstep.cli train ..."
        )


def _true(value: Any) -> bool:
    return str(value).lower() == "true"
