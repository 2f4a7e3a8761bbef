"""Token classifiers that TRL's PRMTrainer made (https://huggingface.co/docs/trl/v0.24.0/prm_trainer)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from qstep.data import beginning, encode_ended, encode_text
from qstep.models import ScorerModel, StepContract
from qstep.scoring.checkpoint import Checkpoint
from qstep.scoring.formats import Encoded
from qstep.scoring.published.base import Published, question_of
from qstep.types import Dtype, Prompt


@dataclass(kw_only=True)
class TRLClassifier(Published):
    """The text is the beginning-of-sequence token, if the tokenizer adds one, the prompt, and the steps. The separator
    follows each step. A softmax over two labels is read at its last token; label 1 is a right step.
    """

    step_separator: str = "\n"

    kind: ClassVar[str] = "trl"

    def __post_init__(self) -> None:
        self.separator_ids = encode_text(self.tokenizer, self.joint)

    @classmethod
    def recognises(cls, checkpoint: Checkpoint) -> bool:
        return checkpoint.architecture.endswith("ForTokenClassification") and checkpoint.labels == 2

    def model(self, name: str, reference: str | None, dtype: Dtype) -> nn.Module:
        return ScorerModel.published(name, dtype, labels=2)

    def encode(self, prompt: Prompt, steps: Sequence[str]) -> list[Encoded]:
        bos = self.tokenizer.bos_token_id
        shared = [*([] if bos is None else [bos]), *encode_text(self.tokenizer, question_of(prompt))]
        return [(shared, *encode_ended(self.tokenizer, steps, self.separator_ids))]

    def contract(self) -> StepContract:
        """As `Published.contract`. The tokenizer is made to begin each text with the beginning-of-sequence token."""
        tokenizer: Any = self.tokenizer
        if tokenizer.bos_token_id is not None and not beginning(tokenizer):
            tokenizer.add_bos_token = True
        return self.contract_with(self.separator_ids, "string")
