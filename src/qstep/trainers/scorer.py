"""Training a step scorer: every objective on the same rows with the same trunk."""

from __future__ import annotations

import logging
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from qstep.data import Index, contradicting_rows, index_rows, rising_rows
from qstep.models import Batch, ModelOptions, ScorerModel, StepContract, collate_steps, encode_steps
from qstep.trainers.base import GroupTrainer
from qstep.trainers.dataset import GroupConfig, GroupDataset, Item, Reasons, select_rows
from qstep.trainers.objectives import Objective, ScorerConfig, StepwiseConfig, loss_function, step_labels
from qstep.trainers.processes import first_then_all
from qstep.types import ABSENT, Row

_log = logging.getLogger(__name__)


class ScorerTrainer(GroupTrainer):
    """Trains a `ScorerModel` on rows with `completions` and `labels`."""

    def __init__(
        self,
        model: ScorerModel,
        config: ScorerConfig,
        train_file: Path,
        tokenizer: PreTrainedTokenizerBase,
        *,
        objective: Objective,
        eval_file: Path | None = None,
        callbacks: list[Any] | None = None,
    ) -> None:
        self.objective: Objective = objective
        self.loss_of = loss_function(objective, config)
        self.labels_of = partial(step_labels, objective=objective)
        if isinstance(config, StepwiseConfig):
            reading = {"threshold": config.threshold, "stop_at_first_error": config.stop_at_first_error}
            self.labels_of = partial(self.labels_of, **reading)
        index = first_then_all(lambda: index_rows(train_file, "stepwise", forbidden=_forbidden(config)))
        self.contract = StepContract.create(
            tokenizer,
            step_separator=config.step_separator,
            separator_token=config.separator_token,
            max_length=config.max_length,
            aggregation="last" if objective == "orm" else "min",
            objective=objective,
            prompts=index.prompts,
            instruction=index.instruction,
        )
        self.contract.attach(model.config)
        super().__init__(model, config, train_file, tokenizer, eval_file=eval_file, callbacks=callbacks)

    @classmethod
    def create(cls, options: ModelOptions, config: GroupConfig, *rest: Any, **more: Any) -> GroupTrainer:
        """The trainer of a new model, once `check_labels` has found the training file worth it."""
        check_labels(rest[0], config, more["objective"])
        return super().create(options, config, *rest, **more)

    @classmethod
    def new_model(cls, options: ModelOptions, config: Any) -> ScorerModel:
        return ScorerModel.new(options)

    def rows(self, path: Path) -> GroupDataset:
        return select_rows(
            path,
            "stepwise",
            self.config,
            self.tokenizer,
            leave_out=_without_verdict if self.objective == "orm" else _without_labels,
            encode=self.count_tokens,
            fixed_tokens=lambda table: np.maximum(table["steps"], 0).astype(np.int64),
            step_separator=self.config.step_separator,
            forbidden=_forbidden(self.config),
        )

    def count_tokens(self, row: Row) -> int:
        """Of prompt, steps and separators."""
        prompt_ids, response_ids, _ = encode_steps(self.tokenizer, self.contract, row["prompt"], row["completions"])
        return len(prompt_ids) + len(response_ids)

    def collate(self, items: list[Item]) -> Batch:
        wanted = [[self.labels_of(row) for row in item["rows"]] for item in items]
        encoded = [
            [
                encode_steps(self.tokenizer, self.contract, row["prompt"], row["completions"][: len(labels)])
                for row, labels in zip(item["rows"], group, strict=True)
            ]
            for item, group in zip(items, wanted, strict=True)
        ]
        batch = collate_steps(
            [group[0][0] for group in encoded],
            [[ids for _, ids, _ in group] for group in encoded],
            [ends for group in encoded for _, _, ends in group],
        )
        labels = torch.full(batch["step_ends"].shape, float(ABSENT))
        for i, of_row in enumerate(chain.from_iterable(wanted)):
            labels[i, : len(of_row)] = torch.tensor(of_row)
        batch["step_labels"] = labels
        return batch

    def losses(self, model: Any, inputs: Batch) -> Tensor:
        q_values, labels = model(inputs), inputs["step_labels"]
        present = labels != ABSENT
        right, wrong = (labels > 0.5) & present, (labels <= 0.5) & present
        self.record(
            q__right=q_values[right], q__wrong=q_values[wrong], rewards__accuracies=((q_values > 0) == right)[present]
        )
        return self.loss_of(q_values, labels)

    def summarised(self, means: dict[str, float]) -> dict[str, float]:
        if {"q/right", "q/wrong"} <= means.keys():
            means["rewards/margins"] = means["q/right"] - means["q/wrong"]
        return means


def check_labels(path: Path, config: Any, objective: Objective) -> None:
    """Refuses a training file from which a scorer can learn nothing, by its index and before a model is loaded.

    That is one all of whose labels (an ORM's: verdicts) say the same: none is wrong, none is right, or, where soft
    labels are taken as they are, all are one number. What is doubtful only, `qstep audit` says.

    Raises:
        RowError: a row is bad.
        ValueError: the labels all say the same, or rise after a wrong step where `config.rising` refuses that.
    """
    index = first_then_all(lambda: index_rows(path, "stepwise", forbidden=_forbidden(config)))
    table = index.table
    if objective == "orm":
        verdict = np.where(table["right"] >= 0, table["right"], table["last"])
        least, most = verdict, verdict
    else:
        least, most = table["lowest"], table["highest"]
    known = ~np.isnan(least) & (table["steps"] > 0)
    if not known.any():
        return  # the trainer says why each row is left out
    low, high = float(least[known].min()), float(most[known].max())
    as_they_are = objective in ("bce", "mse", "orm") and not getattr(config, "stop_at_first_error", False)
    threshold = getattr(config, "threshold", 0.0)
    if low == high if as_they_are else (low > threshold or high <= threshold):
        what = "verdicts on responses" if objective == "orm" else "labels of steps"
        says = f"{low:g}" if low == high else f"{'wrong' if high <= threshold else 'right'} by --threshold {threshold}"
        raise ValueError(
            f"{path}: all {what} say the same ({says}; 1 is right, 0 wrong), so a scorer can learn nothing from them. "
            "Look at the file with `qstep audit`, and add rows that are labelled otherwise"
        )
    if isinstance(config, StepwiseConfig) and config.rising == "refuse" and len(rising_rows(index, threshold)):
        lines = rising_rows(index, threshold) + 1
        raise ValueError(
            f"{path}: labels rise after a wrong step in {len(lines)} rows, first on line {lines[0]}, and --rising is "
            "refuse: mend or drop these, read every row through its first wrong step (--stop_at_first_error true), or "
            "take --rising keep"
        )
    contradictions = contradicting_rows(index) + 1
    if len(contradictions):
        _log.warning(
            "%s: %d rows contradict another of the same response, first on line %d; see `qstep audit`",
            *(path, len(contradictions), contradictions[0]),
        )


def _forbidden(config: ScorerConfig) -> list[str]:
    return sorted({config.step_separator, config.separator_token})


def _without_labels(index: Index) -> Reasons:
    return {"no steps": index.table["steps"] <= 0, "no step has a label": index.table["labelled"] == 0}


def _without_verdict(index: Index) -> Reasons:
    unknown: NDArray[np.bool_] = (index.table["right"] < 0) & np.isnan(index.table["last"])
    return {"no steps": index.table["steps"] <= 0, "neither a verdict nor a label of the last step": unknown}
