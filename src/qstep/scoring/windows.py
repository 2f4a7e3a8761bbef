"""Windows over the steps of a response that is longer than a scorer's `max_length`.

Each window holds the prompt and consecutive steps. It scores the last of them, so that each step is scored once. A
window begins with as many earlier steps as fit: at least half of the room after the prompt, if the step itself leaves
that much.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate

from qstep.scoring.formats import Encoded, Format
from qstep.types import Prompt


def encode_windows(format: Format, prompt: Prompt, steps: Sequence[str]) -> list[Encoded] | None:
    """The sequences of all windows, each with the places of the steps that it scores.

    None if a step with the prompt alone is longer than `max_length`, or if there is no step.
    """
    if not steps:
        return None

    def encoded(first: int, end: int) -> list[Encoded]:
        return format.encode(prompt, steps[first:end])

    alone = [longest(encoded(step, step + 1)) for step in range(len(steps))]
    head = alone[0] + alone[1] - longest(encoded(0, 2)) if len(steps) > 1 else 0  # what every window repeats
    reached = [0, *accumulate(tokens - head for tokens in alone)]
    room = format.max_length - head
    while max(alone) - head <= room:
        sequences: list[Encoded] = []
        for first, done, end in windows(reached, room):
            sequences += _places_from(encoded(first, end), done - first)
        if (excess := longest(sequences) - format.max_length) <= 0:
            return sequences
        room -= excess  # steps together may have a few tokens more than alone
    return None


def windows(reached: Sequence[int], room: int) -> Iterator[tuple[int, int, int]]:
    """Windows of at most `room` tokens: their first step, the first one that they score, and the end of both.

    `reached[n]` is the number of tokens of the first n steps. No step is longer than `room`.
    """
    done = 0
    while done < len(reached) - 1:
        first = max(0, bisect_right(reached, reached[done] - room / 2, 0, done + 1) - 1)
        first = max(first, bisect_left(reached, reached[done + 1] - room))
        end = bisect_right(reached, reached[first] + room) - 1
        yield bisect_left(reached, reached[end] - room), done, end
        done = end


def longest(sequences: Sequence[Encoded]) -> int:
    """The number of tokens of the longest sequence."""
    return max((len(shared) + len(ids) for shared, ids, _ in sequences), default=0)


def _places_from(sequences: Sequence[Encoded], step: int) -> Iterator[Encoded]:
    """The sequences without the places of the first `step` steps."""
    for shared, ids, places in sequences:
        if kept := places[step:]:
            yield shared, ids, kept
        step = max(0, step - len(places))
