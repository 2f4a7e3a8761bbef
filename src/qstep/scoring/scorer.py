"""The protocol that everything which scores steps keeps."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from qstep.types import Aggregation, Prompt, Row


class Scorer(Protocol):
    """Gives each step of a response its Q, a logit; that of the question is 0.

    `step_separator` is the text at which it was taught that responses are cut into steps, `aggregation` how a
    response's score is made of its Qs.
    """

    @property
    def step_separator(self) -> str: ...

    @property
    def aggregation(self) -> Aggregation: ...

    def score(self, prompt: Prompt, steps: Sequence[str]) -> list[float]:
        """The Q of each step."""
        ...

    def score_rows(self, rows: Iterable[Row]) -> Iterator[tuple[Row, list[float]]]:
        """Scores rows with a `prompt` and step texts in `completions`; yields in order, memory flat."""
        ...
