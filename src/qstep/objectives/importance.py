"""Importance weights in training: their options, where mu comes from, and the stop when too few samples count."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from qstep.losses import ImportanceMode, importance_diagnostics, importance_weights
from qstep.objectives.batch import WeightedBatch
from qstep.objectives.config import PolicyConfig
from qstep.objectives.dataset import GroupDataset
from qstep.objectives.objective import AnyBatch, Objective, Recorded
from qstep.processes import gathered, here
from qstep.runs.options import Bounds, ReadIf
from qstep.types import Row

_log = logging.getLogger(__name__)

_WEIGHTED = ReadIf(importance=("trajectory", "prefix"))


class ImportanceCollapse(RuntimeError):
    """The importance weights leave too few effective samples for learning."""


@dataclass
class ImportanceConfig(PolicyConfig):
    """How to weigh responses that another policy sampled.

    Args:
        importance: importance weights: the product of pi/mu over the `trajectory`, over the `prefix` up to each token,
            or always 1 (`none`).
        importance_clip: upper limit of the importance weights.
        min_effective_sample_size: training stops when the share of effective samples, or the mean weight, stays below
            this for `collapse_patience` optimizer steps.
        collapse_patience: optimizer steps in a row below min_effective_sample_size after which training stops.
    """

    importance: ImportanceMode = "trajectory"
    importance_clip: Annotated[float, Bounds(above=0), _WEIGHTED] = 1.0
    min_effective_sample_size: Annotated[float, Bounds(least=0), _WEIGHTED] = 0.02
    collapse_patience: Annotated[int, Bounds(least=1), _WEIGHTED] = 10


class Importance:
    """The importance weights of a training, and their state.

    Rows without `logps_behavior` count as samples of the reference model, with a warning.

    raise_options: the options that keep the policy closer to the data when they are raised, for the advice.
    """

    def __init__(self, config: ImportanceConfig, raise_options: str = "--warmup_steps") -> None:
        self.config, self.raise_options = config, raise_options
        self.steps_below = 0
        self.log_weights: list[Tensor] = []

    def begin(self, train: GroupDataset) -> None:
        """Warns of rows that count as samples of the reference model."""
        assumed = _assumed(train)
        if assumed and self.config.importance != "none" and here()[0] == 0:
            _log.warning(
                "%s: %d of %d rows have no logps_behavior, so they count as samples of the reference model. If another "
                "model sampled them, their importance weights are wrong. Give --importance none",
                train.source,
                assumed,
                len(train.rows),
            )

    def needs_reference(self, dataset: GroupDataset) -> bool:
        """Whether the reference's log-probabilities take the place of missing ones."""
        return self.config.importance != "none" and _assumed(dataset) > 0

    def columns(self, rows: list[Row], mask: Tensor, reference_logps: Tensor | None) -> dict[str, Tensor]:
        """The column `behavior_logps` `[B, T]` of a batch: the rows' `logps_behavior`, or else the reference's."""
        if self.config.importance == "none":
            return {}
        behavior = torch.zeros(mask.shape) if reference_logps is None else reference_logps.clone()
        for i, row in enumerate(rows):
            if row.get("logps_behavior") is not None:
                behavior[i, mask[i].bool()] = torch.tensor(row["logps_behavior"], dtype=torch.float32)
        return {"behavior_logps": behavior}

    def weights(self, model: nn.Module, logps: Tensor, batch: WeightedBatch) -> Tensor | None:
        """The weights `[B]` or `[B, T]`; None if all are 1. Keeps those of a training step for `end_step`."""
        if self.config.importance == "none":
            return None
        mask = batch["response_mask"].bool()
        importance = importance_weights(
            logps, batch["behavior_logps"], mask, self.config.importance, self.config.importance_clip
        )
        if model.training:
            self.log_weights.append(importance.log_weights[batch["row_weight"] > 0])
        return importance.weights

    def end_step(self, step: int) -> Recorded:
        """Diagnostics of the weights of one optimizer step. Raises ImportanceCollapse if they have collapsed."""
        if self.config.importance == "none":
            return {}
        own = torch.cat(self.log_weights).tolist()
        self.log_weights.clear()
        log_weights = torch.tensor([weight for process in gathered(own) for weight in process])
        diagnostics = importance_diagnostics(log_weights, self.config.importance_clip)
        worst = min(diagnostics["effective_sample_size"], diagnostics["mean_weight"])
        self.steps_below = self.steps_below + 1 if worst < self.config.min_effective_sample_size else 0
        if self.steps_below >= self.config.collapse_patience:
            raise ImportanceCollapse(
                f"step {step}: the importance weights kept less than {self.config.min_effective_sample_size:.0%} of "
                f"the batch for {self.steps_below} steps (effective sample size "
                f"{diagnostics['effective_sample_size']:.2%}, mean weight {diagnostics['mean_weight']:.2e}). The "
                "policy is too far from the data and no longer learns. Lower --learning_rate, raise "
                f"{self.raise_options}, or give --importance prefix or none."
            )
        return {f"importance/{name}": torch.tensor(value) for name, value in diagnostics.items()}

    def state(self) -> dict[str, Any]:
        """The state for checkpoints."""
        return {"steps_below": self.steps_below}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restores what `state` returned."""
        self.steps_below = state.get("steps_below", 0)


class WeightedObjective(Objective[AnyBatch]):
    """An objective with importance weights, whose state is kept in checkpoints."""

    importance: Importance

    def end_step(self, step: int) -> Recorded:
        return self.importance.end_step(step)

    def state(self) -> dict[str, Any]:
        return self.importance.state()

    def restore(self, state: Mapping[str, Any]) -> None:
        self.importance.restore(state)


def _assumed(dataset: GroupDataset) -> int:
    """How many rows have no sampling probabilities."""
    return int((~dataset.index.table["behavior"][dataset.rows]).sum())
