"""Rejection sampling: supervised learning on the responses that are right, the baseline of every offline method."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase, TrainingArguments

from qstep.data import Format, encode_completion, encode_prompt, outcome
from qstep.models import Batch, PolicyModel, collate_groups
from qstep.trainers.base import GroupTrainer
from qstep.trainers.dataset import GroupDataset
from qstep.types import Row

Item = dict[str, Any]


@dataclass
class PolicyConfig(TrainingArguments):
    """What every policy trainer is told. Batches count prompts: each brings `responses_per_prompt` responses.

    Args:
        max_length: longest prompt and response together, in tokens; longer rows are refused.
        responses_per_prompt: responses of one problem that share one pass over its prompt in a batch.
    """

    max_length: int = 2048
    responses_per_prompt: int | None = 1


def encode_row(
    tokenizer: PreTrainedTokenizerBase, row: Row, max_length: int, where: str
) -> tuple[list[int], list[int]]:
    """Token ids of a row's prompt and completion (those sampled, where the row has them).

    Raises:
        ValueError: naming `where` if both together exceed `max_length`; nothing is truncated.
    """
    prompt_ids, response_ids = encode_prompt(tokenizer, row["prompt"]), encode_completion(tokenizer, row)
    if len(prompt_ids) + len(response_ids) > max_length:
        raise ValueError(
            f"{where}: {len(prompt_ids)} prompt and {len(response_ids)} response tokens exceed max_length "
            f"{max_length}. Raise it or drop the row; it is not truncated."
        )
    return prompt_ids, response_ids


def policy_dataset(
    path: Path,
    config: PolicyConfig,
    tokenizer: PreTrainedTokenizerBase,
    format: Format,
    leave_out: Callable[[Row], str | None],
) -> GroupDataset:
    """Rows with a `prompt` and a `completion`, without those that are empty or that `leave_out` gives a reason for."""

    def reason(row: Row, where: str) -> str | None:
        _, response = encode_row(tokenizer, row, config.max_length, where)
        return leave_out(row) if response else "empty response"

    return GroupDataset(path, format=format, responses_per_prompt=config.responses_per_prompt, leave_out=reason)


def collate_rows(tokenizer: PreTrainedTokenizerBase, config: PolicyConfig, items: list[Item]) -> Batch:
    """Prompts and responses of some chunks as a batch of groups, with `row_index [B]`."""
    encoded = [[encode_row(tokenizer, row, config.max_length, "row") for row in item["rows"]] for item in items]
    batch = collate_groups([group[0][0] for group in encoded], [[ids for _, ids in group] for group in encoded])
    batch["row_index"] = torch.tensor([index for item in items for index in item["row_index"]])
    return batch


def not_right(row: Row) -> str | None:
    """Keeps right responses, and rows without any reward or label (plain demonstrations)."""
    if "label" not in row and "reward" not in row:
        return None
    reward = outcome(row)
    if reward is None:
        return "ungradable"
    return None if reward > 0 else "not right"


class RSTrainer(GroupTrainer):
    """Next-token cross-entropy on right responses, averaged over the tokens of the whole step."""

    def __init__(
        self,
        model: PolicyModel,
        config: PolicyConfig,
        path: Path,
        tokenizer: PreTrainedTokenizerBase,
        callbacks: list[Any] | None = None,
    ) -> None:
        dataset = policy_dataset(path, config, tokenizer, "prompt-completion", not_right)
        super().__init__(
            model, config, dataset, lambda items: collate_rows(tokenizer, config, items), tokenizer, callbacks
        )

    def count_items(self, inputs: dict[str, Tensor]) -> Tensor:
        return inputs["response_mask"].sum()

    def losses(self, model: Any, inputs: dict[str, Tensor]) -> Tensor:
        return -model(inputs).sum(dim=1)
