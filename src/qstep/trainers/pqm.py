"""Training a step scorer: PQM's ranking losses and its baselines, on the same rows with the same trunk."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase, TrainingArguments

from qstep.losses import bce_loss, mse_loss, orm_loss, pqm_ablation_loss, pqm_loss, pqm_theoretical_loss
from qstep.models import ScorerModel, StepContract, collate_steps, encode_steps
from qstep.trainers.base import GroupTrainer
from qstep.trainers.dataset import GroupDataset
from qstep.types import ABSENT, Aggregation, Row

Objective = Literal["pqm", "pqm_theoretical", "pqm_ablation", "bce", "mse", "orm"]
RANKING = ("pqm", "pqm_theoretical", "pqm_ablation")


@dataclass
class ScorerConfig(TrainingArguments):
    """How to train a step scorer. Batches count prompts: each brings `responses_per_prompt` responses.

    Args:
        objective: pqm (Eq. 10 of arXiv 2410.11287), pqm_theoretical (Eq. 9), pqm_ablation (Eq. 12), bce, mse, orm.
        margin: zeta of the ranking losses.
        threshold: a soft label above it counts as correct (0: any success is correct).
        stop_at_first_error: read each response only through its first wrong step, as PRM800K labels them (arXiv
            2305.20050). The steps after it repeat its label whatever they say, and drown what there is to learn.
        step_separator: the text that separates steps in a response.
        separator_token: the single token put, by its id, after each step; the step's Q is read there.
        max_length: longest prompt and response together, in tokens; longer rows are refused.
        responses_per_prompt: responses of one problem that share one pass over its prompt in a batch.
    """

    objective: Objective = "pqm"
    margin: float = 4.0
    threshold: float = 0.0
    stop_at_first_error: bool = False
    step_separator: str = "\n"
    separator_token: str = "\n"
    max_length: int = 2048
    responses_per_prompt: int | None = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.objective not in get_args(Objective):
            raise ValueError(f"objective is {self.objective!r}: choose one of {', '.join(get_args(Objective))}")
        if self.objective == "orm" and self.stop_at_first_error:
            raise ValueError("objective is 'orm' with stop_at_first_error: an ORM reads the end of every response")

    @property
    def aggregation(self) -> Aggregation:
        """How a response's score is made of its Qs: the last for an ORM, else the smallest."""
        return "last" if self.objective == "orm" else "min"


def loss_function(objective: Objective, margin: float) -> Callable[[Tensor, Tensor], Tensor]:
    """The loss of one objective as a function of `(q_values [B, S], labels [B, S])`."""
    functions: dict[Objective, Callable[[Tensor, Tensor], Tensor]] = {
        "pqm": partial(pqm_loss, margin=margin),
        "pqm_theoretical": partial(pqm_theoretical_loss, margin=margin),
        "pqm_ablation": pqm_ablation_loss,
        "bce": bce_loss,
        "mse": mse_loss,
        "orm": orm_loss,
    }
    return functions[objective]


def step_labels(row: Row, config: ScorerConfig) -> list[float]:
    """The labels of the steps that are trained on, as the objective wants them.

    Ranking losses take hard labels, so a soft one is compared with `threshold`, and every step after the first
    wrong one is wrong (their order assumes it). An ORM's label is the verdict on the whole response where the row
    has one. BCE and MSE take labels as they are. With `stop_at_first_error` the first wrong step is the last.
    """
    labels = [float(label) for label in row["labels"]]
    first_wrong = next((t for t, label in enumerate(labels) if label <= config.threshold), len(labels))
    if config.stop_at_first_error:
        labels = labels[: first_wrong + 1]
    if config.objective in RANKING:
        return [float(t < first_wrong) for t in range(len(labels))]
    if config.objective == "orm" and row.get("label") is not None:
        return [*labels[:-1], float(row["label"])]
    return labels


class ScorerTrainer(GroupTrainer):
    """Trains an `AutoModelForTokenClassification` with one output to score steps."""

    def __init__(
        self,
        model: ScorerModel,
        config: ScorerConfig,
        path: Path,
        tokenizer: PreTrainedTokenizerBase,
        callbacks: list[Any] | None = None,
    ) -> None:
        self.config = config
        contract = StepContract.create(
            tokenizer,
            step_separator=config.step_separator,
            separator_token=config.separator_token,
            max_length=config.max_length,
            aggregation=config.aggregation,
            objective=config.objective,
        )
        contract.attach(model.config)

        def leave_out(row: Row, where: str) -> str | None:
            encode_steps(tokenizer, contract, row["prompt"], row["completions"], where=where)
            return None if row["completions"] else "no steps"

        dataset = GroupDataset(
            path, format="stepwise", responses_per_prompt=config.responses_per_prompt, leave_out=leave_out
        )

        def collate(items: list[dict[str, Any]]) -> dict[str, Tensor]:
            wanted = [[step_labels(row, config) for row in item["rows"]] for item in items]
            encoded = [
                [
                    encode_steps(tokenizer, contract, row["prompt"], row["completions"][: len(labels)], where="row")
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
            batch["row_index"] = torch.tensor([index for item in items for index in item["row_index"]])
            return batch

        super().__init__(model, config, dataset, collate, tokenizer, callbacks)

    def losses(self, model: Any, inputs: dict[str, Tensor]) -> Tensor:
        q_values, labels = model(inputs), inputs["step_labels"]
        present = labels != ABSENT
        right, wrong = (labels > 0.5) & present, (labels <= 0.5) & present
        q = q_values.detach().float()
        right_mean, wrong_mean = q[right].mean().item(), q[wrong].mean().item()
        metrics = {
            "q__right": right_mean,
            "q__wrong": wrong_mean,
            "rewards__margins": right_mean - wrong_mean,
        }
        self.record(
            rewards__accuracies=((q > 0) == right)[present].float().mean().item(),
            **{name: value for name, value in metrics.items() if math.isfinite(value)},
        )
        return loss_function(self.config.objective, self.config.margin)(q_values, labels)
