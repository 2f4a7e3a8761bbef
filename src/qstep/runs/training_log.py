"""The log of a training run: a line for each report of its metrics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qstep.types import Row

TRAINING_LOG = "train_log.jsonl"
"""The file in the folder of a run."""

_PLACE = ("id", "step", "max_steps", "epoch")
"""The entries of a line that say when it was logged."""


def log_line(id: str, step: int, max_steps: int, logged: Mapping[str, Any]) -> Row:
    """The line of what transformers' Trainer logged (metrics and `epoch`) at a step of so many."""
    return {"id": id, "step": step, "max_steps": max_steps, **logged}


def metrics_of(line: Mapping[str, Any]) -> Row:
    """The metrics of a line."""
    return {name: value for name, value in line.items() if name not in _PLACE}
