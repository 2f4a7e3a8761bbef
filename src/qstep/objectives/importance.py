"""Importance weights in training: their options, where mu comes from, and the stop when too few samples count."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from qstep.evals.own_samples import explanation, finding
from qstep.evals.sampled_by import chosen_rows, compare_with_own
from qstep.losses import ImportanceMode, importance_diagnostics, importance_weights
from qstep.models import PolicyModel
from qstep.objectives.batch import WeightedBatch
from qstep.objectives.config import PolicyConfig
from qstep.objectives.dataset import GroupDataset
from qstep.objectives.objective import AnyBatch, Objective, Recorded
from qstep.processes import gathered, here, together
from qstep.runs.options import Bounds, InSettings, ReadIf
from qstep.types import Row

_log = logging.getLogger(__name__)

Behavior = Literal["auto", "reference", "unknown", "rows"]
"""What rows without `logps_behavior` count as."""

WEIGHTED = ReadIf(importance=("trajectory", "prefix", "token"))
_COMPARED = 48
"""How many rows are compared with the model's own samples."""
_COUNT_AS = {
    "reference": "They count as samples of the model that training starts from",
    "unknown": "They are not weighed by importance",
}
_ALTERNATIVES = {
    "reference": "--behavior unknown would not weigh them by importance",
    "unknown": "--behavior reference would take them for samples of the model that training starts from, and "
    "`qstep sample` writes rows with logps_behavior",
}


_LESS = {"trajectory": "prefix, token or none", "prefix": "token or none", "token": "none"}
"""The modes whose weights vary less."""


def _as_json(clip: float) -> float | str:
    return "inf" if clip == math.inf else clip


class ImportanceCollapse(RuntimeError):
    """The importance weights leave too few effective samples for learning."""


@dataclass
class ImportanceConfig(PolicyConfig):
    """How to weigh responses that another policy sampled.

    Args:
        importance: what one weight covers; with `none` every weight is 1. The complete response is `trajectory`, the
            tokens up to each one are `prefix`, and `token` is each token alone.
        importance_clip: upper limit of the importance weights; `inf` for none.
        behavior: what rows without `logps_behavior` count as. `reference` takes them for samples of the model that
            training starts from, `unknown` gives them weight 1, and `rows` refuses them. `auto` tests whether that
            model sampled them.
        min_effective_sample_size: lower limit of the effective sample size, as a share of the weights, and of the mean
            weight. Training stops when one of them stays below it for `collapse_patience` optimizer steps.
        collapse_patience: optimizer steps in a row below min_effective_sample_size after which training stops.
    """

    importance: ImportanceMode = "trajectory"
    importance_clip: Annotated[float, Bounds(above=0), InSettings(_as_json), WEIGHTED] = 1.0
    behavior: Annotated[Behavior, WEIGHTED] = "auto"
    min_effective_sample_size: Annotated[float, Bounds(least=0), WEIGHTED] = 0.02
    collapse_patience: Annotated[int, Bounds(least=1), WEIGHTED] = 10


class Importance:
    """The importance weights of a training, and their state.

    raise_options: the options that keep the policy closer to the data when they are raised, for the advice.
    assumed: what rows without `logps_behavior` count as, once `begin` has decided it.
    """

    def __init__(
        self, config: ImportanceConfig, tokenizer: PreTrainedTokenizerBase, raise_options: str = "--warmup_steps"
    ) -> None:
        self.config, self.tokenizer, self.raise_options = config, tokenizer, raise_options
        self.assumed: Literal["reference", "unknown"] = "reference" if config.behavior == "reference" else "unknown"
        self.steps_below = 0
        self.log_weights: list[Tensor] = []
        self.log_clipped: list[Tensor] = []

    def check(self, dataset: GroupDataset) -> None:
        """Raises RowError for the first row without `logps_behavior` if all rows must have it."""
        lacking = _lacking(dataset)
        if self.config.importance != "none" and self.config.behavior == "rows" and len(lacking):
            raise dataset.source.error(
                dataset.index.line(int(lacking.min())),
                "logps_behavior",
                f"is missing ({len(lacking)} such rows), and --behavior is rows. Sample with `qstep sample`, which "
                "writes it, or give --behavior auto, reference or unknown",
            )

    def begin(self, model: PolicyModel, train: GroupDataset) -> None:
        """Decides what rows without `logps_behavior` count as, and says so. Called by all processes."""
        lacking = _lacking(train)
        if self.config.importance == "none" or not len(lacking):
            return
        why = "as --behavior says"
        if self.config.behavior == "auto":
            self.assumed, why = gathered(together(lambda: self._tested(model, train, lacking)))[0]
        if here()[0] == 0:
            _log.warning(
                "%s: %d of %d rows have no logps_behavior. %s, %s. %s",
                train.source,
                len(lacking),
                len(train.rows),
                _COUNT_AS[self.assumed],
                why,
                _ALTERNATIVES[self.assumed],
            )

    def _tested(
        self, model: PolicyModel, train: GroupDataset, lacking: NDArray[np.int64]
    ) -> tuple[Literal["reference", "unknown"], str]:
        """What the rows count as by a test of some of them, and why. Every process computes the same."""
        numbers = lacking[chosen_rows(len(lacking), _COMPARED)].tolist()
        rows = ((train.where(number), train.row(number)) for number in numbers)
        found = compare_with_own(model, self.tokenizer, rows, max_length=self.config.max_length)
        if found.own is not False:
            return ("reference" if found.own else "unknown"), f"because {finding(found)}"
        return "unknown", f"because {finding(found)}; possible reasons are {explanation(found)}"

    def needs_reference(self, dataset: GroupDataset) -> bool:
        """Whether the reference's log-probabilities take the place of missing ones."""
        return self.config.importance != "none" and self.assumed == "reference" and len(_lacking(dataset)) > 0

    def columns(self, rows: list[Row], mask: Tensor, reference_logps: Tensor | None) -> dict[str, Tensor]:
        """The column `behavior_logps` `[B, T]` of a batch: the rows' `logps_behavior`, the reference's, or NaN."""
        if self.config.importance == "none":
            return {}
        behavior = torch.full(mask.shape, torch.nan)
        for i, row in enumerate(rows):
            if row.get("logps_behavior") is not None:
                behavior[i, mask[i].bool()] = torch.tensor(row["logps_behavior"], dtype=torch.float32)
            elif self.assumed == "reference":
                behavior[i] = _reference_of(reference_logps, i)
        return {"behavior_logps": behavior}

    def weights(
        self, model: nn.Module, logps: Tensor, batch: WeightedBatch, unweighted: Tensor | None = None
    ) -> Tensor | None:
        """The weights `[B]` or `[B, T]`; None if all are 1. Keeps those of a training step for `end_step`.

        unweighted: responses `[B]` whose weight is 1.
        """
        if self.config.importance == "none":
            return None
        mask, behavior = batch["response_mask"].bool(), batch["behavior_logps"]
        known = ~(behavior.isnan() & mask).any(dim=1)
        behavior = torch.where(known[:, None], behavior, logps.detach())
        importance = importance_weights(logps, behavior, mask, self.config.importance, self.config.importance_clip)
        weights, log_clipped = importance.weights, importance.log_clipped
        free = ~known if unweighted is None else ~known | unweighted
        free = free if weights.ndim == 1 else free[:, None] & mask
        weights, log_clipped = weights.masked_fill(free, 1.0), log_clipped.masked_fill(free, 0.0)
        if model.training:
            kept = known & (batch["row_weight"] > 0)
            self.log_weights.append(importance.log_weights[kept])
            self.log_clipped.append(log_clipped[kept] if weights.ndim == 1 else log_clipped[kept[:, None] & mask])
        return weights

    def end_step(self, step: int) -> Recorded:
        """Diagnostics of the weights of one optimizer step. Raises ImportanceCollapse if they have collapsed.

        Rows whose behaviour policy is unknown do not count.
        """
        log_weights, log_clipped = _of_all_processes(self.log_weights), _of_all_processes(self.log_clipped)
        if not len(log_clipped):
            return {}
        diagnostics = importance_diagnostics(log_weights, log_clipped)
        watched = {"effective sample size": diagnostics["effective_sample_size"], "mean": diagnostics["mean_weight"]}
        worst = min(watched, key=watched.__getitem__)
        self.steps_below = self.steps_below + 1 if watched[worst] < self.config.min_effective_sample_size else 0
        if self.steps_below >= self.config.collapse_patience:
            raise ImportanceCollapse(
                f"step {step}: the {worst} of the importance weights stayed below "
                f"{self.config.min_effective_sample_size:g} for {self.steps_below} steps (now {watched[worst]:.2g}). "
                "The policy is too far from the data and no longer learns. Lower --learning_rate, raise "
                f"{self.raise_options}, or give --importance {_LESS[self.config.importance]}."
            )
        return {f"importance/{name}": torch.tensor(value) for name, value in diagnostics.items()}

    def state(self) -> dict[str, Any]:
        """The state for checkpoints."""
        return {"steps_below": self.steps_below, "assumed": self.assumed}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restores what `state` returned. What rows count as stays as it was when the run began."""
        self.steps_below = state.get("steps_below", 0)
        self.assumed = state.get("assumed", self.assumed)


class WeightedObjective(Objective[AnyBatch]):
    """An objective with importance weights, whose state is kept in checkpoints."""

    importance: Importance

    def end_step(self, step: int) -> Recorded:
        return self.importance.end_step(step)

    def state(self) -> dict[str, Any]:
        return self.importance.state()

    def restore(self, state: Mapping[str, Any]) -> None:
        self.importance.restore(state)


def _of_all_processes(parts: list[Tensor]) -> Tensor:
    """The values that this process and the others have kept, which are kept no longer."""
    own = torch.cat(parts).float().cpu().numpy() if parts else np.empty(0, np.float32)
    parts.clear()
    return torch.from_numpy(np.concatenate(gathered(own)))


def _reference_of(logps: Tensor | None, row: int) -> Tensor:
    if logps is None:
        raise ValueError(
            "the checkpoint counts rows without logps_behavior as samples of the model that training started from, but "
            "the test now finds that they are not. The rows or the model have changed: start again in another folder"
        )
    return logps[row]


def _lacking(dataset: GroupDataset) -> NDArray[np.int64]:
    """The rows that have no sampling probabilities."""
    return dataset.rows[~dataset.index.table["behavior"][dataset.rows]]
