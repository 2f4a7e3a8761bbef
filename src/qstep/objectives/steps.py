"""The options, rows, batches and metrics that all step scorers share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import Annotated, Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from qstep.data import Index, check_separator
from qstep.models import ModelOptions, ScorerModel, StepContract, collate_steps, encode_row_steps
from qstep.objectives.batch import LabelledStepBatch
from qstep.objectives.config import GroupConfig
from qstep.objectives.dataset import GroupDataset, Item, Reasons, Selection, select_rows
from qstep.objectives.labels import check_labels, hard_labels, label_range, soft_labels, without_end
from qstep.objectives.objective import Losses, Objective
from qstep.objectives.source import RowsFile
from qstep.runs.options import CHANGES_NOTHING, AtLeast1, Check, ReadIf, Threshold
from qstep.runs.shared_options import StepSeparator
from qstep.types import ABSENT, Aggregation, Row, Truncated


@dataclass
class ScorerConfig(GroupConfig):
    """How to train a step scorer.

    Args:
        step_separator: the string that separates steps in a response, or the `split:<name>` that cut it. The name is
            line, blank_line, paragraph, numbered, sentence or `module:function`, after `thinking:` or `answer:` if
            only this part has steps (see `qstep annotate`).
        separator_token: the single token that follows each step in the model's input. The step's Q is read there.
        responses_per_prompt: maximum number of responses in a batch that share one pass over their prompt. Null means
            all responses of the problem.
    """

    step_separator: StepSeparator = "\n"
    separator_token: Annotated[str, Check(check_separator)] = "\n"
    responses_per_prompt: AtLeast1 | None = 16

    @property
    def forbidden(self) -> list[str]:
        """The strings that no step may contain, sorted so that the hash seed does not matter."""
        return sorted({self.step_separator, self.separator_token})


@dataclass
class StepwiseConfig(ScorerConfig):
    """How to train a scorer on the labels of steps.

    Args:
        threshold: a soft label above this counts as right. With 0, any success counts as right.
        stop_at_first_error: read each response only up to and including its first wrong step, as PRM800K is labelled
            (arXiv 2305.20050). Later steps repeat that step's label whatever they say, so they teach nothing. False
            reads all steps.
        truncated: what happens to responses that were cut off (`finish_reason` is `length`) and are not right. `keep`
            takes them as they are labelled; `drop` leaves them out and counts them; `mask` reads their steps but not
            the label of the last one, which is not finished.
        rising: what happens to rows with a right step after a wrong one, if stop_at_first_error is false. `keep` trains
            on them (a ranking loss counts that step as wrong); `refuse` stops with an error.
    """

    truncated: Truncated = "keep"
    threshold: Threshold = 0.0
    stop_at_first_error: bool = True
    rising: Annotated[Literal["keep", "refuse"], CHANGES_NOTHING, ReadIf(stop_at_first_error=False)] = "keep"


class StepScoring(Objective[LabelledStepBatch]):
    """Trains a `ScorerModel` on rows with `completions` and `labels`.

    Args:
        name: the method's name, for the contract.
        loss: returns the loss of each trajectory, from Q-values `[B, S]` and labels `[B, S]`.
        labels_of: returns the labels of a row's steps for the loss. Steps beyond them are not read.
        check: refuses a training file that teaches nothing. It takes the strings that no step may contain.
        leave_out: returns the rows that teach nothing, by reason.
        aggregation: the rule that makes one score from a response's Q-values, for the contract.
    """

    def __init__(
        self,
        config: ScorerConfig,
        tokenizer: PreTrainedTokenizerBase,
        name: str,
        *,
        loss: Callable[[Tensor, Tensor], Tensor],
        labels_of: Callable[[Row], list[float]],
        check: Callable[[RowsFile, Sequence[str]], None],
        leave_out: Callable[[Index], Reasons],
        aggregation: Aggregation = "min",
    ) -> None:
        self.config, self.tokenizer = config, tokenizer
        self.loss, self.labels_of, self._check, self.leave_out = loss, labels_of, check, leave_out
        self.contract = StepContract.create(
            tokenizer,
            step_separator=config.step_separator,
            separator_token=config.separator_token,
            max_length=config.max_length,
            aggregation=aggregation,
            objective=name,
        )

    def new_model(self, options: ModelOptions) -> ScorerModel:
        return ScorerModel.new(options)

    def check(self, source: RowsFile) -> None:
        self._check(source, self.config.forbidden)

    def rows(self, source: RowsFile) -> GroupDataset:
        return stepwise_rows(source, self.config, self.tokenizer, self._count_tokens, self.leave_out)

    def _count_tokens(self, tokenizer: PreTrainedTokenizerBase, row: Row, where: str) -> int:
        """Counts the tokens of prompt, steps and separators."""
        try:
            prompt_ids, response_ids, _ = encode_row_steps(tokenizer, self.contract, row)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
        return len(prompt_ids) + len(response_ids)

    def begin(self, model: ScorerModel, train: GroupDataset) -> None:
        index = train.index
        self.contract = replace(self.contract, prompts=index.prompts, instruction=index.instruction)
        self.contract.attach(model.config)

    def collate(self, items: list[Item]) -> LabelledStepBatch:
        wanted = [[self.labels_of(row) for row in item["rows"]] for item in items]
        encoded = [
            [
                encode_row_steps(self.tokenizer, self.contract, row, len(labels))
                for row, labels in zip(item["rows"], group, strict=True)
            ]
            for item, group in zip(items, wanted, strict=True)
        ]
        steps = collate_steps(
            [group[0][0] for group in encoded],
            [[ids for _, ids, _ in group] for group in encoded],
            [ends for group in encoded for _, _, ends in group],
        )
        labels = torch.full(steps["step_ends"].shape, float(ABSENT))
        for i, row_labels in enumerate(chain.from_iterable(wanted)):
            labels[i, : len(row_labels)] = torch.tensor(row_labels)
        return {**steps, "step_labels": labels}

    def losses(self, model: Any, batch: LabelledStepBatch) -> Losses:
        q_values, labels = model(batch), batch["step_labels"]
        present = labels != ABSENT
        right, wrong = (labels > 0.5) & present, (labels <= 0.5) & present
        recorded = {
            "q/right": q_values[right],
            "q/wrong": q_values[wrong],
            "rewards/accuracies": ((q_values > 0) == right)[present],
        }
        return Losses(self.loss(q_values, labels), recorded)

    def metrics(self, means: dict[str, float]) -> dict[str, float]:
        if {"q/right", "q/wrong"} <= means.keys():
            means["rewards/margins"] = means["q/right"] - means["q/wrong"]
        return means


class StepSelection(Selection, Protocol):
    """A `Selection` of rows with steps."""

    @property
    def step_separator(self) -> str: ...
    @property
    def forbidden(self) -> list[str]: ...


def stepwise_rows(
    source: RowsFile,
    config: StepSelection,
    tokenizer: PreTrainedTokenizerBase | None,
    encode: Callable[[PreTrainedTokenizerBase, Row, str], int],
    leave_out: Callable[[Index], Reasons],
) -> GroupDataset:
    """Rows with steps and their labels as a training set. Raises as `select_rows` does."""
    return select_rows(
        source,
        "stepwise",
        config,
        tokenizer,
        leave_out=leave_out,
        encode=encode,
        fixed_tokens=lambda table: np.maximum(table["steps"], 0).astype(np.int64),
        step_separator=config.step_separator,
        forbidden=config.forbidden,
    )


def by_step_labels(
    config: StepwiseConfig,
    tokenizer: PreTrainedTokenizerBase,
    name: str,
    loss: Callable[[Tensor, Tensor], Tensor],
    *,
    soft: bool,
) -> StepScoring:
    """The objective of a loss on labelled steps. With `soft`, soft labels are its targets, else 1 or 0."""
    labels_of = partial(
        soft_labels if soft else hard_labels,
        threshold=config.threshold,
        stop_at_first_error=config.stop_at_first_error,
    )
    mask = config.truncated == "mask"
    return StepScoring(
        config,
        tokenizer,
        name,
        loss=loss,
        labels_of=(lambda row: labels_of(without_end(row))) if mask else labels_of,
        check=lambda source, forbidden: check_labels(source, config, forbidden, soft=soft),
        leave_out=partial(without_labels, mask=mask),
    )


def without_labels(index: Index, *, mask: bool) -> Reasons:
    """Leaves out rows in which no step has a label, or with `mask` no step before an unfinished one."""
    lowest, _ = label_range(index, mask=mask)
    return {"no steps": index.table["steps"] <= 0, "no step has a label": np.isnan(lowest)}
