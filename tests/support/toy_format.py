"""A published format as its author would add it: one file, and a line in `qstep.scoring.kinds`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from qstep.data import encode_ended, encode_text, one_token
from qstep.models import ScorerModel
from qstep.scoring.checkpoint import Checkpoint
from qstep.scoring.formats import Encoded
from qstep.scoring.published.base import Published, question_of
from qstep.types import Dtype, Prompt


@dataclass(kw_only=True)
class Toy(Published):
    """The question between brackets, and after each step a mark, where a classifier with one output is read.

    Args:
        mark: one token.
    """

    mark: str = "!"

    kind: ClassVar[str] = "toy"

    def __post_init__(self) -> None:
        self.mark_id = one_token(self.tokenizer, self.mark, "--scorer_options.mark")

    @classmethod
    def recognises(cls, checkpoint: Checkpoint) -> bool:
        return checkpoint.architecture == "ToyRewardModel"

    def model(self, name: str, reference: str | None, dtype: Dtype) -> nn.Module:
        return ScorerModel.published(name, dtype, labels=1)

    def encode(self, prompt: Prompt, steps: Sequence[str]) -> list[Encoded]:
        shared = encode_text(self.tokenizer, f"[{question_of(prompt)}]")
        return [(shared, *encode_ended(self.tokenizer, steps, [self.mark_id]))]
