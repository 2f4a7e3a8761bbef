"""The rows and batches that all methods share that train a policy."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from itertools import chain

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from qstep.data import Format, Index, ResponseTokens, check_completion_ids, encode_prompt, encode_response
from qstep.data.chat import end_of_turn
from qstep.models import Batch, ModelOptions, PolicyModel, collate_groups
from qstep.models.ends import declared_ends
from qstep.models.loading import bare
from qstep.objectives.dataset import GroupDataset, Item, Reasons, Selection, select_rows
from qstep.objectives.labels import warn_of_contradictions
from qstep.objectives.objective import AnyBatch, Objective
from qstep.objectives.source import RowsFile
from qstep.objectives.verdicts import refuse_contradicting_verdicts
from qstep.processes import here, together
from qstep.types import Row

_log = logging.getLogger(__name__)

_LOGPS = "Log-probabilities of sampled tokens are read from logps_behavior, with completion_ids"
_REWARDS = "Rewards of parts of a response are read from step_rewards"
_UNREAD = {
    **dict.fromkeys(("logprobs", "logps", "log_probs", "old_logprobs", "old_log_probs"), _LOGPS),
    **dict.fromkeys(("token_rewards", "rewards"), _REWARDS),
    **dict.fromkeys(("advantage", "advantages"), "Advantages are computed from reward"),
}
"""Columns that mean something in other programs, and what training reads instead."""
_CHECKED = 200
"""How many rows' `completion_ids` are checked before training. The others are checked when training reads them."""


def encode_row(tokenizer: PreTrainedTokenizerBase, row: Row, where: str) -> tuple[list[int], ResponseTokens]:
    """The tokens of a row's prompt and completion. The completion's are the sampled ones if the row has them.

    Raises ValueError, naming `where`, if another tokenizer sampled them, if the tokenizer cannot write a text, or if
    the chat template changes a turn.
    """
    check_completion_ids(tokenizer, row, where)
    field = "prompt"
    try:
        prompt_ids = encode_prompt(tokenizer, row["prompt"])
        field = "completion"
        return prompt_ids, encode_response(tokenizer, row)
    except ValueError as error:
        raise ValueError(f"{where}, field {field!r}: {error}") from None


class PolicyObjective(Objective[AnyBatch]):
    """A method that trains a policy without a value function."""

    tokenizer: PreTrainedTokenizerBase

    def new_model(self, options: ModelOptions) -> PolicyModel:
        return PolicyModel.new(options)

    def begin(self, model: PolicyModel, train: GroupDataset) -> None:
        stop_at_end_of_turn(model, self.tokenizer, train)


def policy_rows(
    source: RowsFile,
    config: Selection,
    tokenizer: PreTrainedTokenizerBase | None,
    format: Format,
    leave_out: Callable[[Index], Reasons],
    step_separator: str | None = None,
    *,
    asks_right: bool = False,
) -> GroupDataset:
    """Rows with a `prompt` and a `completion` as a training set. Raises as `select_rows` and `encode_row` do.

    A blank completion without `completion_ids` is left out, because the sampled tokens are unknown. Without a
    tokenizer, neither lengths nor `completion_ids` are checked.
    """

    def count_tokens(tokenizer: PreTrainedTokenizerBase, row: Row, where: str) -> int:
        prompt_ids, response = encode_row(tokenizer, row, where)
        return len(prompt_ids) + len(response.ids)

    dataset = select_rows(
        source,
        format,
        config,
        tokenizer,
        leave_out=lambda index: {**leave_out(index), "blank": index.table["blank"]},
        encode=count_tokens,
        fixed_tokens=lambda table: np.where(table["ids"] >= 0, table["ids"], 1).astype(np.int64),
        step_separator=step_separator,
        reads_ids=True,
        asks_right=asks_right,
    )

    columns: set[str] = set()

    def check() -> None:
        for number in dataset.rows[:: -(-len(dataset.rows) // _CHECKED)].tolist():
            row = dataset.row(number)
            columns.update(row)
            if tokenizer is not None:
                check_completion_ids(tokenizer, row, dataset.where(number))

    together(check)
    refuse_contradicting_verdicts(source, dataset.index)
    _warn_of_unread(source, columns)
    if tokenizer is not None and tokenizer.chat_template and dataset.index.prompts == "string" and here()[0] == 0:
        _log.warning(
            "%s: the prompts are texts, so this model's chat template is not applied. If it will be asked through its "
            "template, make each prompt the user's turn: --columns.user COLUMN",
            source,
        )
    warn_of_contradictions(source, dataset.index)
    return dataset


def _warn_of_unread(source: RowsFile, columns: Collection[str]) -> None:
    """Names columns that mean something in other programs, and that training does not read."""
    unread = [name for name in _UNREAD if name in columns]
    if unread and here()[0] == 0:
        why = ". ".join(dict.fromkeys(_UNREAD[name] for name in unread))
        _log.warning("%s: training does not read the column %s. %s", source, ", ".join(map(repr, unread)), why)


def stop_at_end_of_turn(model: PolicyModel, tokenizer: PreTrainedTokenizerBase, train: GroupDataset) -> None:
    """Makes the end of a turn an end of text in the model's generation config, if it is trained on conversations.

    So other programs stop the trained model where its responses ended in training.
    """
    pretrained, end = bare(model.pretrained), end_of_turn(tokenizer)
    if pretrained.generation_config is None or end is None or train.index.prompts == "string":
        return
    pretrained.generation_config.eos_token_id = sorted({*declared_ends(pretrained), end})


def collate_rows(tokenizer: PreTrainedTokenizerBase, items: list[Item]) -> Batch:
    """A batch of groups from the prompts and responses of some chunks. Others' turns are outside `response_mask`."""
    encoded = [
        [encode_row(tokenizer, row, where) for row, where in zip(item["rows"], item["where"], strict=True)]
        for item in items
    ]
    responses = [[response for _, response in group] for group in encoded]
    batch = collate_groups(
        [group[0][0] for group in encoded], [[response.ids for response in group] for group in responses]
    )
    for i, response in enumerate(chain.from_iterable(responses)):
        batch["response_mask"][i, : len(response.own)] = torch.tensor(response.own)
    return batch
