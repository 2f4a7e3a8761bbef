"""Trainers: small `transformers.Trainer` subclasses that learn from groups, and which of them each method takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

from qstep.trainers.base import GroupTrainer, NonFiniteLoss
from qstep.trainers.dataset import GroupConfig
from qstep.trainers.dqo import DQOConfig, DQOTrainer, ImportanceCollapse
from qstep.trainers.dro import DROConfig, DROTrainer
from qstep.trainers.objectives import RankingConfig, ScorerConfig, StepwiseConfig
from qstep.trainers.policy import RSTrainer
from qstep.trainers.processes import ProcessFailed
from qstep.trainers.scorer import ScorerTrainer

__all__ = [
    "METHODS",
    "DQOConfig",
    "DQOTrainer",
    "DROConfig",
    "DROTrainer",
    "GroupConfig",
    "GroupTrainer",
    "ImportanceCollapse",
    "Method",
    "NonFiniteLoss",
    "ProcessFailed",
    "RSTrainer",
    "RankingConfig",
    "ScorerConfig",
    "ScorerTrainer",
    "StepwiseConfig",
]


class Method(NamedTuple):
    """A way to train: its options, and what makes its trainer.

    create(model_options, config, train_file, tokenizer, *, eval_file, callbacks) makes the trainer, with its model.
    """

    config: type[GroupConfig]
    create: Callable[..., GroupTrainer]


METHODS: Mapping[str, Method] = {
    "pqm": Method(RankingConfig, partial(ScorerTrainer.create, objective="pqm")),
    "pqm_theoretical": Method(RankingConfig, partial(ScorerTrainer.create, objective="pqm_theoretical")),
    "pqm_ablation": Method(StepwiseConfig, partial(ScorerTrainer.create, objective="pqm_ablation")),
    "bce": Method(StepwiseConfig, partial(ScorerTrainer.create, objective="bce")),
    "mse": Method(StepwiseConfig, partial(ScorerTrainer.create, objective="mse")),
    "orm": Method(ScorerConfig, partial(ScorerTrainer.create, objective="orm")),
    "rs": Method(GroupConfig, RSTrainer.create),
    "dro": Method(DROConfig, DROTrainer.create),
    "dqo": Method(DQOConfig, DQOTrainer.create),
}
"""What `qstep train METHOD` runs."""
