"""Compares the responses of rows with a model's own samples: the test of `qstep.evals.own_samples`.

What ends a response is left out. The model's distribution is that over all tokens but the end of text and of a turn, so
rows may be cut off, or end where no end of text was sampled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from qstep.data import check_completion_ids, encode_prompt, encode_response
from qstep.evals.own_samples import OwnSamples, judge
from qstep.models import Batch, PolicyModel, collate_groups, moved
from qstep.models.ends import end_tokens
from qstep.models.loading import bare
from qstep.types import Row

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def chosen_rows(count: int, rows: int) -> NDArray[np.int64]:
    """At most `rows` of the numbers from 0 to `count - 1`, evenly chosen."""
    return np.unique(np.linspace(0, count - 1, min(rows, count)).round().astype(np.int64))


def compare_with_own(
    model: PolicyModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Iterable[tuple[str, Row]],
    *,
    temperature: float = 1.0,
    max_length: int,
    advance: Callable[[int], object] = lambda rows: None,
) -> OwnSamples:
    """Compares responses with samples of a model at a temperature.

    Args:
        rows: rows with `prompt` and `completion`, each with its name in errors. If a row has `completion_ids`, these
            are its tokens.
        max_length: the tokens of a prompt and its response after which the response is not read.
        advance: is called with 1 after each row.

    Raises ValueError, naming the row, if another tokenizer made its `completion_ids`, or this one cannot read it.
    """
    ends = end_tokens(bare(model.pretrained), tokenizer)
    max_length = min(max_length, model.learned_positions or max_length)
    count = encoded = 0
    parts = [np.empty((4, 0))]
    for where, row in rows:
        check_completion_ids(tokenizer, row, where)
        count, encoded = count + 1, encoded + (row.get("completion_ids") is None)
        try:
            batch = moved(_cut_batch(tokenizer, row, max_length), model.device)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
        found = model.surprises(batch, temperature=temperature, ends=ends)
        random = found.variance > 0
        parts.append(torch.stack([values[random] for values in found]).double().cpu().numpy())
        advance(1)
    return judge(np.concatenate(parts, axis=1), rows=count, encoded=encoded, temperature=temperature)


def _cut_batch(tokenizer: PreTrainedTokenizerBase, row: Row, max_length: int) -> Batch:
    """A batch of one row, without the tokens after `max_length`."""
    prompt, response = encode_prompt(tokenizer, row["prompt"]), encode_response(tokenizer, row)
    room = max(0, max_length - len(prompt))
    batch = collate_groups([prompt], [[response.ids[:room]]])
    batch["response_mask"] = torch.tensor([response.own[:room]]).long()
    return batch
