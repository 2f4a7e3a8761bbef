"""The protocol that everything which scores steps keeps."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from qstep.types import Aggregation, Prompt, Row

Scored = tuple[Row, list[float]]
"""A row and the Q of each of its steps."""


class StepReading(Protocol):
    """What a scorer says of how it reads steps.

    `step_separator` is the text at which it was taught that responses are cut into steps, or names the splitter,
    `max_length` the tokens of prompt and steps that it can hold, `aggregation` how a response's score is made of its
    Qs, and `objective` what it was trained for.
    """

    @property
    def step_separator(self) -> str: ...

    @property
    def max_length(self) -> int: ...

    @property
    def aggregation(self) -> Aggregation: ...

    @property
    def objective(self) -> str: ...

    def fits(self, row: Row) -> bool:
        """Whether a row, as `Scorer.score_rows` takes it, is within `max_length`, in each of its sequences."""
        ...

    def unlike_training(self, prompt: Prompt, instruction: str | None = None) -> str | None:
        """How a prompt differs from those of training, and what to do; None if it does not or nothing is known.

        `instruction` is the one that the command at hand has put after the question.
        """
        ...


class Scorer(StepReading, Protocol):
    """Gives each step of a response its Q, a logit; that of the question is 0."""

    def score(self, prompt: Prompt, steps: Sequence[str]) -> list[float]:
        """The Q of each step."""
        ...

    def score_rows(self, rows: Iterable[Row], *, max_tokens: int) -> Iterator[list[Scored]]:
        """Scores rows with a `prompt` and step texts in `completions`, in order, with memory flat.

        Yields those computed together, about `max_tokens` tokens.
        """
        ...
