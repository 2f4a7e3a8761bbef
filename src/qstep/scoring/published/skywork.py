"""Skywork-o1-Open-PRM (https://huggingface.co/Skywork/Skywork-o1-Open-PRM-Qwen-2.5-7B).

The owners' code is github.com/SkyworkAI/skywork-o1-prm-inference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from qstep.data import encode_ended, encode_text, one_token
from qstep.models import ScorerModel, StepContract
from qstep.scoring.checkpoint import Checkpoint
from qstep.scoring.formats import Encoded
from qstep.scoring.published.base import Published, question_of
from qstep.types import Dtype, Prompt

_TEMPLATE = "{{ bos_token }}{% for message in messages %}{{ message['content'] }}\n{% endfor %}"
"""The prompt as a chat template."""


@dataclass(kw_only=True)
class Skywork(Published):
    """The text is the beginning-of-sequence token, the question, and the steps, with a line break after each.

    The value head `v_head.summary`, one linear layer, is read at the line break after each step. Its sigmoid is the
    step's reward.
    """

    step_separator: str = "\n"

    kind: ClassVar[str] = "skywork"

    def __post_init__(self) -> None:
        self.end_id = one_token(self.tokenizer, "\n", "the line break")
        if self.tokenizer.bos_token_id is None:
            raise ValueError(
                "the tokenizer has no beginning-of-sequence token. Use the tokenizer saved with the scorer"
            )

    @classmethod
    def recognises(cls, checkpoint: Checkpoint) -> bool:
        return checkpoint.architecture == "Qwen2ForPrmModel" or any(
            weight.startswith("v_head.") for weight in checkpoint.weights
        )

    def model(self, name: str, reference: str | None, dtype: Dtype) -> nn.Module:
        return ScorerModel.published(name, dtype, labels=1, renamed={r"^v_head\.summary\.": "score."})

    def encode(self, prompt: Prompt, steps: Sequence[str]) -> list[Encoded]:
        shared = [self.tokenizer.bos_token_id, *encode_text(self.tokenizer, question_of(prompt) + "\n")]
        return [(shared, *encode_ended(self.tokenizer, steps, [self.end_id]))]

    def contract(self) -> StepContract:
        """As `Published.contract`. Gives the tokenizer a chat template that makes the same prompt."""
        self.tokenizer.chat_template = _TEMPLATE
        return self.contract_with([self.end_id], "messages")
