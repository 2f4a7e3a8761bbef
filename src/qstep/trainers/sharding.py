"""Sharded training: the optimizer's state in checkpoints, and what transformers' Trainer leaves to its model.

Checkpoints hold complete tensors, as those of a training that is not sharded. So any number of processes can resume.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME

from qstep.models.sharding import full_state, shard_of
from qstep.processes import here
from qstep.runs.fsdp_settings import USE_FSDP


def save_optimizer(optimizer: Optimizer, schedule: LRScheduler, folder: Path) -> None:
    """Writes the complete state of the optimizer, and that of the learning rate. Called by all processes."""
    state = full_state(optimizer.state_dict())
    if here()[0] == 0:
        torch.save(state, folder / OPTIMIZER_NAME)
        torch.save(schedule.state_dict(), folder / SCHEDULER_NAME)


def load_optimizer(optimizer: Optimizer, schedule: LRScheduler, folder: Path) -> None:
    """Reads what `save_optimizer` or transformers' Trainer wrote, and keeps this process's shares."""
    state = torch.load(folder / OPTIMIZER_NAME, map_location="cpu", mmap=True, weights_only=True)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    numbers = [number for group in state["param_groups"] for number in group["params"]]
    own = dict(zip(numbers, parameters, strict=True))
    state["state"] = {
        number: {name: shard_of(value, own[number]) for name, value in values.items()}
        for number, values in state["state"].items()
    }
    optimizer.load_state_dict(state)
    schedule.load_state_dict(torch.load(folder / SCHEDULER_NAME, weights_only=True))


@contextmanager
def hidden_from_accelerate() -> Iterator[None]:
    """Hides from an Accelerator that `accelerate launch` asks for FSDP, because qstep shards the model itself."""
    launched = os.environ.pop(USE_FSDP, None)
    try:
        yield
    finally:
        if launched is not None:
            os.environ[USE_FSDP] = launched
