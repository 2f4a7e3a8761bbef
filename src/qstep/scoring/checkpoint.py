"""A scorer that `qstep train` made, on groups: what responses share is computed once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from qstep.models import ScorerModel, StepContract, collate_steps
from qstep.scoring.contract import ContractScorer, Pending
from qstep.scoring.scorer import Scored
from qstep.types import Dtype


class StepScorer(ContractScorer):
    """A trained scorer ready to use: `score(prompt, steps)`, or `score_rows` for a stream of rows."""

    def __init__(self, model: ScorerModel, tokenizer: PreTrainedTokenizerBase) -> None:
        super().__init__(StepContract.of(model.config, tokenizer), tokenizer)
        self.model = model.eval()

    @classmethod
    def load(cls, path: str | Path, *, device: str | torch.device = "cpu", dtype: Dtype = "float32") -> StepScorer:
        """Loads a checkpoint written by `qstep train pqm|bce|mse|orm`, or its adapter.

        Raises ValueError where the checkpoint has no step contract, or one that does not fit its tokenizer.
        """
        return cls(ScorerModel.load(path, dtype).to(device), AutoTokenizer.from_pretrained(path))

    def _score_batches(self, batches: Iterator[Pending]) -> Iterator[list[Scored]]:
        return map(self._scored, batches)

    @torch.inference_mode()
    def _scored(self, pending: Pending) -> list[Scored]:
        groups = pending.groups.values()
        batch = collate_steps(
            [group.prompt_ids for group in groups],
            [[ids for ids, _ in group.responses.values()] for group in groups],
            [ends for group in groups for _, ends in group.responses.values()],
        )
        q_values = self.model({name: tensor.to(self.model.device) for name, tensor in batch.items()})
        return pending.scored(q_values.cpu().tolist())
