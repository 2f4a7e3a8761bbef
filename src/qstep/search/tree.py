"""One problem's search: its partial responses, its draws and scores, and the tokens they cost.

A search is a generator. It yields requests to draw or to score, receives the results, and returns its candidates. So a
method is written for one problem, while `search_together` batches the requests of many problems.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import Annotated, Any, ClassVar, TypeVar

from qstep.data import split_steps
from qstep.generation import SamplingSettings
from qstep.runs.options import AtLeast1, Bounds, check_options
from qstep.scoring.aggregation import aggregate
from qstep.types import Aggregation, FinishReason

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class SearchSettings:
    """The size of a search. `sampling.max_new_tokens` limits each response, counted from its prompt.

    `width` responses are drawn in parallel, `expand` from each that is kept. A step is valued by the response
    `lookahead_steps` later. A response with `max_steps` steps is cut off. `token_budget` is the maximum number of
    tokens drawn for one problem, including pruned responses and lookahead.

    Raises:
        ValueError: a number is too small, or `width` is not a multiple of `expand`.
    """

    FORM: ClassVar[str] = "{}"

    sampling: SamplingSettings
    width: AtLeast1
    expand: AtLeast1 = 1
    lookahead_steps: Annotated[int, Bounds(least=0)] = 0
    max_steps: AtLeast1 | None = None
    token_budget: AtLeast1 | None = None

    def __post_init__(self) -> None:
        check_options(self)
        if self.width % self.expand:
            raise ValueError(
                f"width {self.width} is not a multiple of expand {self.expand}: give a width that --expand divides"
            )


@dataclass(frozen=True, slots=True)
class Partial:
    """A partial response: its tokens and text, and why it ended, if it did.

    `ids` are the tokens drawn, including the end-of-sequence token. If not `sampled`, the engine gives no tokens, and
    `ids` come from tokenizing the text.
    """

    ids: tuple[int, ...] = ()
    text: str = ""
    finish_reason: FinishReason | None = None
    sampled: bool = True

    def steps(self, separator: str) -> list[str]:
        """Its steps. The text after the last separator is a step only if the response is complete."""
        if self.finish_reason is not None:
            return split_steps(self.text, separator)
        closed, found, _ = self.text.rpartition(separator)
        return split_steps(closed, separator) if found else []


ROOT = Partial()
"""Nothing drawn yet."""

Start = tuple[Partial, int]
"""What to continue, and the index of the draw among those from there. Both together determine the tokens."""


@dataclass(frozen=True, slots=True)
class Draw:
    """A continuation of `start` by at most `limit` tokens, to the end of its step unless `whole`."""

    start: Partial
    sample: int
    limit: int
    whole: bool
    greedy: bool


@dataclass(frozen=True, slots=True)
class Rated:
    """A response with the Q of each step and their aggregate. A response too long for the scorer has -inf."""

    partial: Partial
    q_values: list[float] | None
    score: float


Drawn = tuple[Partial, int]
"""The partial response after a draw, and the number of tokens drawn."""

Search = Generator[list[Draw] | list[list[str]], list[Any], T]
"""Yields draws and receives a `Drawn` for each, or yields lists of steps and receives their Qs (None if too long)."""


@dataclass
class Tree:
    """The operations of one problem's search, and the tokens it has used.

    `tokens_generated` counts tokens drawn. `tokens_scored` counts tokens of partial responses that the scorer read,
    each from its first step. Prompts are not counted, and equal steps are scored once. `too_long` counts partial
    responses that are too long for the scorer, and `in_windows` those that it read in windows.
    """

    settings: SearchSettings
    separator: str
    aggregation: Aggregation
    tokens_generated: int = 0
    tokens_scored: int = 0
    too_long: int = 0
    in_windows: int = 0
    _q_values: dict[tuple[str, ...], list[float] | None] = field(default_factory=dict)

    @property
    def tokens_left(self) -> float:
        """The tokens left in the budget."""
        budget = self.settings.token_budget
        return math.inf if budget is None else budget - self.tokens_generated

    def room(self, partials: Iterable[Partial]) -> int:
        """The maximum number of tokens that any of these may still get."""
        return max((self.settings.sampling.max_new_tokens - len(partial.ids) for partial in partials), default=0)

    def draw(
        self, wanted: Sequence[Start], *, whole: bool = False, greedy: bool = False, reserve: int = 0
    ) -> Search[list[Partial | None]]:
        """Continues each start to the end of a step, or of the response. None if the budget has nothing left for it.

        The last `reserve` tokens of the budget are not spent. Draws are made in batches, as large as the remaining
        budget could pay for if each draw used its full limit. What they leave unused pays for the next batch. Only the
        last draw may be cut short.
        """
        todo = list(dict.fromkeys(wanted))
        drawn: dict[Start, Partial] = {}
        while todo and (left := self.tokens_left - reserve) > 0:
            together = [Draw(start, sample, self.room([start]), whole, greedy) for start, sample in todo]
            fit = sum(total <= left for total in accumulate(draw.limit for draw in together))
            together = together[:fit] or [replace(together[0], limit=int(left))]
            todo = todo[len(together) :]
            for draw, (partial, tokens) in zip(together, (yield together), strict=True):
                self.tokens_generated += tokens
                drawn[draw.start, draw.sample] = partial
        return [drawn.get(start) for start in wanted]

    def grow(self, wanted: Sequence[Start], *, greedy: bool = False, reserve: int = 0) -> Search[list[Partial | None]]:
        """Draws one more step for each start, as far as the budget allows. None if no budget was left for it.

        A separator with only white space before it does not end a step, so such a response is continued.
        """
        grown: list[Partial | None] = [None] * len(wanted)
        going = dict(enumerate(wanted))
        while going:
            drawn = yield from self.draw(list(going.values()), greedy=greedy, reserve=reserve)
            for (index, (_, sample)), partial in zip([*going.items()], drawn, strict=True):
                if partial is None:
                    del going[index]
                    continue
                steps = len(partial.steps(self.separator))
                most = self.settings.max_steps
                grown[index] = cut(partial) if most is not None and steps >= most else partial
                if partial.ids == going[index][0].ids:  # avoids an endless loop with a server that returns empty text
                    grown[index] = cut(partial)
                    del going[index]
                elif partial.finish_reason is None and steps == len(wanted[index][0].steps(self.separator)):
                    going[index] = partial, sample
                else:
                    del going[index]
        return grown

    def finish(self, starts: Sequence[Start]) -> Search[list[Partial]]:
        """Completes one response after the other, as far as the budget allows, and cuts off the others."""
        ends = []
        for start, sample in starts:
            end: Partial | None = start
            while end is not None and end.finish_reason is None:
                start = end
                [end] = yield from self.grow([(start, sample)])
            ends.append(end or cut(start))
        return ends

    def rate(self, partials: Sequence[Partial]) -> Search[list[Rated]]:
        """Scores partial responses. Equal steps are scored once."""
        steps = [tuple(partial.steps(self.separator)) for partial in partials]
        unknown = {key: partial for key, partial in zip(steps, partials, strict=True) if key not in self._q_values}
        self._q_values[()] = []
        unknown.pop((), None)
        if unknown:
            scored = yield [list(key) for key in unknown]
            for (key, partial), q_values in zip(unknown.items(), scored, strict=True):
                self._q_values[key] = q_values
                self.tokens_scored += 0 if q_values is None else len(partial.ids)
                self.too_long += q_values is None
        return [self._rated(partial, self._q_values[key]) for partial, key in zip(partials, steps, strict=True)]

    def _rated(self, partial: Partial, q_values: list[float] | None) -> Rated:
        score = -math.inf if q_values is None else aggregate(q_values, self.aggregation)
        return Rated(partial, q_values, score)


def cut(partial: Partial) -> Partial:
    """The response without further continuation: cut off, if it is not complete."""
    return partial if partial.finish_reason is not None else replace(partial, finish_reason="length")


def distinct(partials: Sequence[Partial | None]) -> list[Partial]:
    """The responses that are not None, each text once."""
    first: dict[tuple[str, str | None], Partial] = {}
    for partial in partials:
        if partial is not None:
            first.setdefault((partial.text, partial.finish_reason), partial)
    return list(first.values())


def choose(candidates: Sequence[Rated]) -> int:
    """The index of the answer: the best score among responses that ended by themselves, or among all if none did.

    If several tie, it is the first one.
    """
    return max(
        range(len(candidates)),
        key=lambda i: (candidates[i].partial.finish_reason == "stop", candidates[i].score, -i),
    )
