"""Log-probabilities of the training rows under the reference model, computed once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from qstep.models import policy_logps
from qstep.trainers.dataset import GroupDataset
from qstep.trainers.rs import PolicyConfig, collate_rows

_TOKENS_AT_ONCE = 16384


@torch.inference_mode()
def reference_logps(
    model: PreTrainedModel, dataset: GroupDataset, tokenizer: PreTrainedTokenizerBase, config: PolicyConfig
) -> Sequence[NDArray[np.float32]]:
    """log pi_ref of every response token, one fp32 array per kept row; 4 bytes a token in memory."""
    torch.nn.Module.to(model, config.device)
    model.eval()
    logps: list[NDArray[np.float32]] = [np.empty(0, np.float32)] * len(dataset.offsets)
    pending: list[dict] = []
    size = 0
    for index in range(len(dataset)):
        pending.append(dataset[index])
        size += sum(len(row.get("completion_ids") or row["completion"]) for row in pending[-1]["rows"])
        if size < _TOKENS_AT_ONCE and index + 1 < len(dataset):
            continue
        batch = {k: v.to(config.device) for k, v in collate_rows(tokenizer, config, pending).items()}
        values = policy_logps(model, batch).cpu().numpy()
        lengths = batch["response_mask"].sum(1).tolist()
        for row_index, row, length in zip(batch["row_index"].tolist(), values, lengths, strict=True):
            logps[row_index] = row[:length].copy()
        pending, size = [], 0
    return logps
