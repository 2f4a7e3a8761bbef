"""Formats: how a prompt and steps become tokens, and at which of them each step is read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from transformers import PreTrainedTokenizerBase

from qstep.data import bytes_growth, checked_prompt, encode_prompt, encode_texts, has_turns, most_text_tokens
from qstep.models import StepContract, encode_row_steps, encode_steps
from qstep.scoring.scorer import StepReading
from qstep.types import Prompt, Row

Encoded = tuple[list[int], list[int], list[int]]
"""Token ids that all responses to a prompt share, the ids after them, and the indices of the latter that are read."""


class Format(StepReading, Protocol):
    """Everything about a scorer except its model: how it reads and encodes steps."""

    @property
    def sums_over_response(self) -> bool:
        """Whether a step's Q is a sum over all tokens before it, so that a window would change it."""
        ...

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase: ...

    def encode(self, prompt: Prompt, steps: Sequence[str]) -> list[Encoded]:
        """The sequences in which the steps are read. Their indices, taken in order, belong to the steps in order."""
        ...


class ContractFormat:
    """The format of our own checkpoints, which their step contract describes."""

    sums_over_response = False

    def __init__(self, tokenizer: PreTrainedTokenizerBase, contract: StepContract) -> None:
        self.tokenizer = tokenizer
        self.contract = contract
        self.step_separator = contract.step_separator
        self.max_length = contract.max_length
        self.aggregation = contract.aggregation
        self.objective = contract.objective
        self._growth = bytes_growth(tokenizer)
        self._prompt: tuple[str, list[int]] | None = None

    def encode(self, prompt: Prompt, steps: Sequence[str]) -> list[Encoded]:
        return [encode_steps(self.tokenizer, self.contract, prompt, steps, self._prompt_ids(prompt))]

    def encode_row(self, row: Row) -> list[Encoded]:
        """`encode` of a row's steps. In a response of several turns, these are turns."""
        if has_turns(row.get("completion")):
            return [encode_row_steps(self.tokenizer, self.contract, row)]
        return self.encode(row["prompt"], row["completions"])

    def _prompt_ids(self, prompt: Prompt) -> list[int]:
        """The tokens of a prompt. Those of the last one are kept, for its next response or window."""
        name = repr(prompt)
        if self._prompt is None or self._prompt[0] != name:
            self._prompt = name, encode_prompt(self.tokenizer, checked_prompt(prompt))
        return self._prompt[1]

    def unlike_training(self, prompt: Prompt, instruction: str | None = None) -> str | None:
        return self.contract.unlike_training(prompt, instruction)

    def fits(self, row: Row) -> bool:
        steps = row["completions"]
        if has_turns(row.get("completion")):
            return sum(map(len, self.encode_row(row)[0][:2])) <= self.max_length
        room = self.max_length - len(self._prompt_ids(row["prompt"])) - len(steps)  # each step has a separator
        if self._growth is not None:
            text = "".join(steps)
            size = len(text.encode())
            if most_text_tokens(size, size - len(text), len(steps), self._growth) <= room:
                return True
        return sum(map(len, encode_texts(self.tokenizer, steps))) <= room
