"""Trainers: small `transformers.Trainer` subclasses that learn from groups."""

from qstep.trainers.base import GroupTrainer, NonFiniteLoss
from qstep.trainers.dqo import DQOConfig, DQOTrainer, DROTrainer, ImportanceCollapse
from qstep.trainers.pqm import ScorerConfig, ScorerTrainer
from qstep.trainers.rs import PolicyConfig, RSTrainer

__all__ = [
    "DQOConfig",
    "DQOTrainer",
    "DROTrainer",
    "GroupTrainer",
    "ImportanceCollapse",
    "NonFiniteLoss",
    "PolicyConfig",
    "RSTrainer",
    "ScorerConfig",
    "ScorerTrainer",
]
