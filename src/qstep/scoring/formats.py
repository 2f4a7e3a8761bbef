"""How a prompt and steps become tokens, and where in them each step is read: what a scorer's format says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from transformers import PreTrainedTokenizerBase

from qstep.data import bytes_growth, encode_prompt, encode_texts, most_text_tokens
from qstep.models import StepContract, encode_steps
from qstep.scoring.scorer import StepReading
from qstep.types import Prompt, Row

Encoded = tuple[list[int], list[int], list[int]]
"""Token ids that the responses to a prompt share, those behind them, and where among the latter steps are read."""


class Format(StepReading, Protocol):
    """What of a scorer is not its model: how it reads steps, and the encoding."""

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase: ...

    def encode(self, prompt: Prompt, steps: Sequence[str]) -> list[Encoded]:
        """The sequences in which the steps are read: their places, one after the other, are those of the steps."""
        ...


class ContractFormat:
    """The format of a checkpoint of our own: its step contract."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, contract: StepContract) -> None:
        self.tokenizer = tokenizer
        self.contract = contract
        self.step_separator = contract.step_separator
        self.max_length = contract.max_length
        self.aggregation = contract.aggregation
        self.objective = contract.objective
        self._growth = bytes_growth(tokenizer)
        self._prompt: tuple[Prompt, int] | None = None

    def encode(self, prompt: Prompt, steps: Sequence[str]) -> list[Encoded]:
        return [encode_steps(self.tokenizer, self.contract, prompt, steps)]

    def unlike_training(self, prompt: Prompt, instruction: str | None = None) -> str | None:
        return self.contract.unlike_training(prompt, instruction)

    def fits(self, row: Row) -> bool:
        if self._prompt is None or self._prompt[0] != row["prompt"]:
            self._prompt = row["prompt"], len(encode_prompt(self.tokenizer, row["prompt"]))
        steps = row["completions"]
        room = self.max_length - self._prompt[1] - len(steps)  # a separator each
        if self._growth is not None:
            text = "".join(steps)
            size = len(text.encode())
            if most_text_tokens(size, size - len(text), len(steps), self._growth) <= room:
                return True
        return sum(map(len, encode_texts(self.tokenizer, steps))) <= room
