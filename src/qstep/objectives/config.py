"""The options that every method has."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers import TrainingArguments

from qstep.data import refuse_unread
from qstep.types import OverLong

_COUNTS = (
    "max_length",
    "per_device_train_batch_size",
    "per_device_eval_batch_size",
    "gradient_accumulation_steps",
)
_UNREAD = ("label_smoothing_factor", "neftune_noise_alpha", "auto_find_batch_size")
"""Options of transformers' Trainer that these trainers have no use for."""


@dataclass
class GroupConfig(TrainingArguments):
    """What every trainer is told. Batches count prompts: each brings `responses_per_prompt` responses.

    Args:
        max_length: longest prompt and response together, in tokens.
        over_long: rows longer than that are refused with their number, or dropped and counted.
        responses_per_prompt: responses of one problem that share one pass over its prompt in a batch; null for all.
        logging_steps: optimizer steps between two lines of the log, of which each is an average.
    """

    max_length: int = 2048
    over_long: OverLong = "refuse"
    responses_per_prompt: int | None = 1
    logging_steps: float = 10

    def __post_init__(self) -> None:
        if not torch.accelerator.is_available():  # else accelerate takes several processes for one each
            self.use_cpu = True
        super().__post_init__()
        for name in _COUNTS:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: give 1 or more")
        if self.max_steps == 0 or (self.max_steps < 0 and self.num_train_epochs <= 0):
            raise ValueError("no step is asked for: give max_steps or num_train_epochs above 0")
        refuse_unread(self, _UNREAD, "a trainer of another kind")
        if self.responses_per_prompt is not None and self.responses_per_prompt < 1:
            raise ValueError(f"responses_per_prompt is {self.responses_per_prompt}: give 1 or more, or null for all")
