"""Qwen2.5-Math-PRM (https://huggingface.co/Qwen/Qwen2.5-Math-PRM-7B)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import nn
from transformers import PretrainedConfig

from qstep.data import encode_chat
from qstep.models import ScorerModel
from qstep.scoring.checkpoint import Checkpoint
from qstep.scoring.formats import Encoded
from qstep.scoring.published.base import Published, split_shared, turns_of
from qstep.types import Dtype, Prompt


@dataclass(kw_only=True)
class QwenPRM(Published):
    """The text is a conversation in the chat template: a system prompt, the question, and the steps as the assistant's
    turn. The token `<extra_0>` follows each step. There a head of two layers (`score.0`, ReLU, `score.2`) gives two
    logits. The softmax of the second is the probability that the step is right.

    Args:
        system_prompt: used if the prompt has no system turn of its own.
    """

    system_prompt: str = "Please reason step by step, and put your final answer within \\boxed{}."

    kind: ClassVar[str] = "qwen_prm"
    tag: ClassVar[str] = "<extra_0>"

    def __post_init__(self) -> None:
        if self.tag not in self.tokenizer.added_tokens_encoder:
            raise ValueError(f"the tokenizer has no token {self.tag}. Use the tokenizer saved with the scorer")
        self.tokenizer.add_special_tokens(
            {"extra_special_tokens": [self.tag]}
        )  # so that text is never tokenised as the tag
        self.tag_id = self.tokenizer.added_tokens_encoder[self.tag]

    @classmethod
    def recognises(cls, checkpoint: Checkpoint) -> bool:
        return checkpoint.architecture == "Qwen2ForProcessRewardModel"

    def model(self, name: str, reference: str | None, dtype: Dtype) -> nn.Module:
        def head(config: PretrainedConfig) -> nn.Module:
            size = config.get_text_config().hidden_size
            return nn.Sequential(nn.Linear(size, size), nn.ReLU(), nn.Linear(size, 2))

        return ScorerModel.published(name, dtype, labels=2, head=head)

    def encode(self, prompt: Prompt, steps: Sequence[str]) -> list[Encoded]:
        turns = turns_of(prompt)
        if turns[0][0] != "system":
            turns.insert(0, ("system", [self.system_prompt]))
        if not steps:
            return []
        shared, _ = encode_chat(self.tokenizer, turns, add_generation_prompt=True)
        marked = [part for step in steps for part in (step, self.tag_id)]
        return [split_shared(shared, *encode_chat(self.tokenizer, [*turns, ("assistant", marked)]))]
