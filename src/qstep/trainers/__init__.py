"""Trainers: small `transformers.Trainer` subclasses that learn from groups, and which of them each method takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import nn
from transformers import TrainingArguments

from qstep.models import ModelOptions, PolicyModel, PolicyWithValue, ScorerModel
from qstep.trainers.base import GroupTrainer, NonFiniteLoss
from qstep.trainers.policy import PolicyConfig, RSTrainer
from qstep.trainers.processes import ProcessFailed
from qstep.trainers.scorer import RankingConfig, ScorerConfig, ScorerTrainer, StepwiseConfig
from qstep.trainers.value import DQOConfig, DQOTrainer, DROConfig, DROTrainer, ImportanceCollapse

__all__ = [
    "METHODS",
    "DQOConfig",
    "DQOTrainer",
    "DROConfig",
    "DROTrainer",
    "GroupTrainer",
    "ImportanceCollapse",
    "Method",
    "NonFiniteLoss",
    "PolicyConfig",
    "ProcessFailed",
    "RSTrainer",
    "RankingConfig",
    "ScorerConfig",
    "ScorerTrainer",
    "StepwiseConfig",
]


@dataclass(frozen=True)
class Method:
    """A way to train: its options, the model it starts from, and its trainer.

    new_model(options, config) makes the model. trainer(model, config, train_file, tokenizer, *, eval_file, callbacks)
    trains it.
    """

    config: type[TrainingArguments]
    new_model: Callable[[ModelOptions, Any], nn.Module]
    trainer: Callable[..., GroupTrainer]


def _new_scorer(options: ModelOptions, config: Any) -> nn.Module:
    return ScorerModel.new(options)


def _new_policy(options: ModelOptions, config: Any) -> nn.Module:
    return PolicyModel.new(options)


def _new_policy_with_value(options: ModelOptions, config: DROConfig) -> nn.Module:
    return PolicyWithValue.new_with_value(options, config.value)


METHODS: Mapping[str, Method] = {
    "pqm": Method(RankingConfig, _new_scorer, partial(ScorerTrainer, objective="pqm")),
    "pqm_theoretical": Method(RankingConfig, _new_scorer, partial(ScorerTrainer, objective="pqm_theoretical")),
    "pqm_ablation": Method(StepwiseConfig, _new_scorer, partial(ScorerTrainer, objective="pqm_ablation")),
    "bce": Method(StepwiseConfig, _new_scorer, partial(ScorerTrainer, objective="bce")),
    "mse": Method(StepwiseConfig, _new_scorer, partial(ScorerTrainer, objective="mse")),
    "orm": Method(ScorerConfig, _new_scorer, partial(ScorerTrainer, objective="orm")),
    "rs": Method(PolicyConfig, _new_policy, RSTrainer),
    "dro": Method(DROConfig, _new_policy_with_value, DROTrainer),
    "dqo": Method(DQOConfig, _new_policy_with_value, DQOTrainer),
}
"""What `qstep train METHOD` runs."""
