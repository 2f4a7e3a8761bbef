"""Log-probabilities of the training rows under the reference model, computed once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from qstep.models import PolicyWithValue
from qstep.trainers.dataset import GroupDataset
from qstep.trainers.rs import Item, PolicyConfig, collate_rows

_TOKENS_AT_ONCE = 16384


@torch.inference_mode()
def reference_logps(
    model: PolicyWithValue, dataset: GroupDataset, tokenizer: PreTrainedTokenizerBase, config: PolicyConfig
) -> Sequence[NDArray[np.float32]]:
    """log pi_ref of every response token, one fp32 array per kept row; 4 bytes a token in memory.

    Equal responses to a prompt are computed once where they are near each other.
    """
    torch.nn.Module.to(model, config.device)
    model.eval()
    logps: list[NDArray[np.float32]] = [np.empty(0, np.float32)] * len(dataset.offsets)
    pending: list[Item] = []
    equal: dict[str, list[int]] = {}  # rows of the same tokens, of which the first is pending for all
    size = 0
    for index in range(len(dataset)):
        first: Item = {"rows": [], "row_index": []}
        item = dataset[index]
        for row, row_index in zip(item["rows"], item["row_index"], strict=True):
            response = row.get("completion_ids") or row["completion"]
            twins = equal.setdefault(repr((row["prompt"], response)), [])
            twins.append(row_index)
            if len(twins) == 1:
                first["rows"].append(row)
                first["row_index"].append(row_index)
                size += len(response)
        if first["rows"]:
            pending.append(first)
        if size < _TOKENS_AT_ONCE and index + 1 < len(dataset):
            continue
        batch = {k: v.to(config.device) for k, v in collate_rows(tokenizer, config, pending).items()}
        with model.reference():
            values = model.policy_logps(batch).cpu().numpy()
        lengths = batch["response_mask"].sum(1).tolist()
        for twins, row_logps, length in zip(equal.values(), values, lengths, strict=True):
            for row_index in twins:
                logps[row_index] = row_logps[:length].copy()
        pending, equal, size = [], {}, 0
    return logps
