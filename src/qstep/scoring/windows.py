"""Windows over the steps of a response that is longer than a scorer's `max_length`.

Each window holds the prompt and consecutive steps. It scores the last of them, so that each step is scored once. A
window begins with as many earlier steps as fit: at least half of the room after the prompt, if the step itself leaves
that much.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from itertools import pairwise

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

    ends = [len(shared) + place + 1 for shared, _, places in encoded(0, len(steps)) for place in places]
    last = longest(encoded(len(steps) - 1, len(steps)))
    head = last - (ends[-1] - ends[-2]) if len(steps) > 1 else 0  # what every window repeats
    reached = [0, *(end - head for end in ends)]
    room, largest = format.max_length - head, max(b - a for a, b in pairwise(reached))
    while largest <= room:
        sequences: list[Encoded] = []
        for first, done, end in windows(reached, room):
            sequences += _places_from(encoded(first, end), done - first)
        if (excess := longest(sequences) - format.max_length) <= 0:
            return sequences
        room -= excess  # a window may have a few tokens more than its share of the response
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
