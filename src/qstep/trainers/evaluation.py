"""Evaluation during training: the training loss and metrics on another data set."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import DataLoader
from transformers.trainer_utils import EvalLoopOutput

from qstep.processes import together
from qstep.trainers.averages import Averages
from qstep.trainers.batches import begin_step

if TYPE_CHECKING:
    from qstep.trainers.group_trainer import GroupTrainer


def evaluate_all(trainer: GroupTrainer, dataloader: DataLoader, prefix: str) -> EvalLoopOutput:
    """The mean loss over a complete data set, and the means of recorded values."""
    model: Any = trainer.model
    if not trainer.accelerator._models:
        model = trainer.accelerator.prepare_model(model, evaluation_mode=True)
    model.eval()
    training, trainer.averages = trainer.averages, Averages()
    begin_step(trainer, model, _batches(dataloader))
    for part in chain.from_iterable(_batches(dataloader)):
        inputs: Any = trainer._prepare_inputs(part)
        with torch.no_grad():
            losses = trainer.losses(model, inputs).masked_fill(inputs["row_weight"] == 0, 0.0)
        trainer.averages.add("loss", losses, int(trainer.count_items(inputs)))
        trainer.control = trainer.callback_handler.on_prediction_step(trainer.args, trainer.state, trainer.control)
    means, trainer.averages = trainer.take_means(), training
    metrics = {f"{prefix}_{name}": value for name, value in means.items()}
    return EvalLoopOutput(None, None, metrics, len(dataloader.dataset))  # type: ignore[arg-type]


def _batches(dataloader: DataLoader) -> Iterator[Any]:
    """The micro-batches of a data loader. If one process cannot read its own, all stop."""
    iterator = iter(dataloader)
    for _ in range(len(dataloader)):
        yield together(lambda: next(iterator))
