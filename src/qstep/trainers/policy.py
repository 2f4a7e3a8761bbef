"""Training a policy on the responses that are right: rejection sampling, the baseline of every offline method."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedTokenizerBase, TrainingArguments

from qstep.data import Format, Index, check_completion_ids, encode_completion, encode_prompt
from qstep.models import Batch, PolicyModel, collate_groups
from qstep.trainers.base import GroupTrainer
from qstep.trainers.dataset import GroupDataset, Reasons, select_rows
from qstep.trainers.processes import together
from qstep.types import OverLong, Row

Item = dict[str, Any]

_CHECKED = 200
"""Rows whose `completion_ids` are read before training begins; the others are when they are reached."""


@dataclass
class PolicyConfig(TrainingArguments):
    """What every policy trainer is told. Batches count prompts: each brings `responses_per_prompt` responses.

    Args:
        max_length: longest prompt and response together, in tokens.
        over_long: rows longer than that are refused with their number, or dropped and counted.
        responses_per_prompt: responses of one problem that share one pass over its prompt in a batch.
    """

    max_length: int = 2048
    over_long: OverLong = "refuse"
    responses_per_prompt: int | None = 1


def encode_row(tokenizer: PreTrainedTokenizerBase, row: Row, where: str) -> tuple[list[int], list[int]]:
    """Token ids of a row's prompt and completion (those sampled, where the row has them).

    Raises ValueError, naming `where`, if another tokenizer sampled them.
    """
    check_completion_ids(tokenizer, row, where)
    return encode_prompt(tokenizer, row["prompt"]), encode_completion(tokenizer, row)


def policy_rows(
    path: Path,
    config: PolicyConfig,
    tokenizer: PreTrainedTokenizerBase,
    format: Format,
    leave_out: Callable[[Index], Reasons],
    step_separator: str | None = None,
) -> GroupDataset:
    """Rows with a `prompt` and a `completion` as a training set; raises as `select_rows` and `encode_row` do."""

    def count_tokens(row: Row) -> int:
        prompt_ids, response_ids = encode_row(tokenizer, row, str(path))
        return len(prompt_ids) + len(response_ids)

    dataset = select_rows(
        path,
        format,
        tokenizer,
        leave_out=leave_out,
        encode=count_tokens,
        fixed_tokens=lambda table: np.where(table["ids"] >= 0, table["ids"], 1).astype(np.int64),
        max_length=config.max_length,
        over_long=config.over_long,
        step_separator=step_separator,
        responses_per_prompt=config.responses_per_prompt,
    )

    def check() -> None:
        for number in dataset.rows[:: -(-len(dataset.rows) // _CHECKED)].tolist():
            check_completion_ids(tokenizer, dataset.row(number), dataset.where(number))

    together(check)
    return dataset


def collate_rows(tokenizer: PreTrainedTokenizerBase, items: list[Item]) -> Batch:
    """Prompts and responses of some chunks as a batch of groups."""
    encoded = [
        [encode_row(tokenizer, row, where) for row, where in zip(item["rows"], item["where"], strict=True)]
        for item in items
    ]
    return collate_groups([group[0][0] for group in encoded], [[ids for _, ids in group] for group in encoded])


def not_right(index: Index) -> Reasons:
    """Keeps right responses, and rows without any reward or label (plain demonstrations)."""
    graded, right = index.table["graded"], index.table["right"]
    ungradable: NDArray[np.bool_] = graded & (right < 0)
    return {"ungradable": ungradable, "not right": right == 0}


class RSTrainer(GroupTrainer):
    """Next-token cross-entropy on right responses, averaged over the tokens of the whole step."""

    def __init__(
        self,
        model: PolicyModel,
        config: PolicyConfig,
        train_file: Path,
        tokenizer: PreTrainedTokenizerBase,
        *,
        eval_file: Path | None = None,
        callbacks: list[Any] | None = None,
    ) -> None:
        train, evaluated = (
            None if path is None else policy_rows(path, config, tokenizer, "prompt-completion", not_right)
            for path in (train_file, eval_file)
        )
        assert train is not None
        super().__init__(
            model, config, train, lambda items: collate_rows(tokenizer, items), tokenizer, evaluated, callbacks
        )

    def count_items(self, inputs: Batch) -> Tensor:
        return inputs["response_mask"].sum(dim=1)

    def losses(self, model: Any, inputs: Batch) -> Tensor:
        return -model(inputs).sum(dim=1)
