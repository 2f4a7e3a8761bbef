"""The protocol of everything that scores steps."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from qstep.types import Aggregation, Prompt, Row

Scored = tuple[Row, list[float]]
"""A row and the Q of each of its steps."""


class StepReading(Protocol):
    """How a scorer reads steps.

    `step_separator` is the string at which responses are cut into steps, as in training, or the name of a splitter.
    `max_length` limits the tokens of prompt and steps together. `aggregation` says how a response's score is computed
    from its Qs. `objective` is what the scorer was trained for.
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
        """Whether all sequences of a row, as `Scorer.score_rows` takes it, are within `max_length`."""
        ...

    def unlike_training(self, prompt: Prompt, instruction: str | None = None) -> str | None:
        """How a prompt differs from those of training, and what to do; None if it does not or nothing is known.

        `instruction` is the one that the command at hand has put after the question.
        """
        ...


class Scorer(StepReading, Protocol):
    """Gives each step of a response its Q, a logit; that of the question is 0."""

    def use_windows(self) -> None:
        """Reads responses longer than `max_length` in windows from now on. Raises ValueError if it cannot."""
        ...

    def in_windows(self, row: Row) -> bool:
        """Whether a row that fits is read in windows."""
        ...

    def score(self, prompt: Prompt, steps: Sequence[str]) -> list[float]:
        """The Q of each step."""
        ...

    def score_rows(self, rows: Iterable[Row], *, max_tokens: int) -> Iterator[list[Scored]]:
        """Scores rows with a `prompt` and steps in `completions`, in order. Memory does not grow with the rows.

        Yields a batch of rows at a time, of about `max_tokens` tokens.
        """
        ...
