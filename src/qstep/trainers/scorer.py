"""Training a step scorer: PQM's ranking losses and its baselines, on the same rows with the same trunk."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from qstep.data import Index, check_separator, contradicting_rows, index_rows, is_right, refuse_unread, rising_rows
from qstep.losses import bce_loss, mse_loss, orm_loss, pqm_ablation_loss, pqm_loss, pqm_theoretical_loss
from qstep.models import Batch, ModelOptions, ScorerModel, StepContract, collate_steps, encode_steps
from qstep.trainers.base import GroupTrainer
from qstep.trainers.dataset import GroupConfig, GroupDataset, Item, Reasons, select_rows
from qstep.trainers.processes import first_then_all
from qstep.types import ABSENT, Row

Objective = Literal["pqm", "pqm_theoretical", "pqm_ablation", "bce", "mse", "orm"]
MARGINS = ("pqm", "pqm_theoretical")
RANKING = (*MARGINS, "pqm_ablation")

_log = logging.getLogger(__name__)


@dataclass
class ScorerConfig(GroupConfig):
    """How to train a step scorer.

    Args:
        step_separator: the text that separates steps in a response, or `split:<name>` of what cut it into them: line,
            blank_line, numbered, sentence or `module:function` (see `qstep annotate`).
        separator_token: the single token put, by its id, after each step; the step's Q is read there.
        responses_per_prompt: responses of one problem that share one pass over its prompt in a batch; null for all.
    """

    step_separator: str = "\n"
    separator_token: str = "\n"
    responses_per_prompt: int | None = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        check_separator("step_separator", self.step_separator)
        check_separator("separator_token", self.separator_token)


@dataclass
class StepwiseConfig(ScorerConfig):
    """How to train a scorer on the labels of steps.

    Args:
        threshold: a soft label above it counts as correct (0: any success is correct), for the ranking losses and for
            stop_at_first_error; BCE and MSE take soft labels as they are.
        stop_at_first_error: read each response only through its first wrong step, as PRM800K labels them (arXiv
            2305.20050). The steps after it repeat its label whatever they say, and drown what there is to learn. The
            ablation's loss (Eq. 12) never reads them: there it saves their tokens.
        rising: whether rows with a right step after a wrong one are taken as the loss takes them (a ranking loss calls
            that step wrong), or refused. To cut them at the wrong step, take stop_at_first_error.
    """

    threshold: float = 0.0
    stop_at_first_error: bool = False
    rising: Literal["keep", "refuse"] = "keep"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.threshold < 1:
            raise ValueError(f"--threshold is {self.threshold}; it must be at least 0 and below 1")
        if self.rising == "refuse" and self.stop_at_first_error:
            raise ValueError("--rising refuse refuses what --stop_at_first_error true cuts: take one of the two")


@dataclass
class RankingConfig(StepwiseConfig):
    """How to train a scorer by PQM's ranking (arXiv 2410.11287).

    Args:
        margin: zeta of the ranking losses.
    """

    margin: float = 4.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.margin < 0:
            raise ValueError(f"--margin is {self.margin}; it must be at least 0")


def loss_function(objective: Objective, config: ScorerConfig) -> Callable[[Tensor, Tensor], Tensor]:
    """The loss of one objective as a function of `(q_values [B, S], labels [B, S])`.

    Raises ValueError for a config of another objective.
    """
    wanted = RankingConfig if objective in MARGINS else ScorerConfig if objective == "orm" else StepwiseConfig
    if type(config) is not wanted:
        raise ValueError(f"{objective} is trained with a {wanted.__name__}, not a {type(config).__name__}")
    if isinstance(config, RankingConfig):
        return partial(pqm_loss if objective == "pqm" else pqm_theoretical_loss, margin=config.margin)
    if isinstance(config, StepwiseConfig) and objective not in RANKING and not config.stop_at_first_error:
        refuse_unread(config, ["threshold"], f"--stop_at_first_error true: {objective} takes soft labels as they are")
    return {"pqm_ablation": pqm_ablation_loss, "bce": bce_loss, "mse": mse_loss, "orm": orm_loss}[objective]


def step_labels(
    row: Row, objective: Objective, threshold: float = 0.0, stop_at_first_error: bool = False
) -> list[float]:
    """The labels of the steps that are trained on, as the objective wants them; `ABSENT` for a label of null.

    Ranking losses take hard labels, so a soft one is compared with `threshold`, and every labelled step after the first
    wrong one is wrong (their order assumes it). An ORM's label is the verdict on the whole response where the row has
    one (`is_right`), else its last step's. BCE and MSE take labels as they are. With `stop_at_first_error` the first
    wrong step is the last.
    """
    labels = [float(ABSENT) if label is None else float(label) for label in row["labels"]]
    if objective == "orm":
        verdict = is_right(row)
        return [float(ABSENT)] * (len(labels) - 1) + [labels[-1] if verdict is None else float(verdict)]
    wrong = (t for t, label in enumerate(labels) if label != ABSENT and label <= threshold)
    first_wrong = next(wrong, len(labels))
    if stop_at_first_error:
        labels = labels[: first_wrong + 1]
    if objective in RANKING:
        return [label if label == ABSENT else float(t < first_wrong) for t, label in enumerate(labels)]
    return labels


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
        self.contract = StepContract.create(
            tokenizer,
            step_separator=config.step_separator,
            separator_token=config.separator_token,
            max_length=config.max_length,
            aggregation="last" if objective == "orm" else "min",
            objective=objective,
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
