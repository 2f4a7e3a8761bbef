"""The spans of mathematics, code and drawings in a text, which no splitter of this package cuts."""

from __future__ import annotations

import re
from bisect import bisect_left

BLANK = r"[^\S\r\n]"
BREAK = r"(?:\r\n|\n|\r(?!\n))"
BLANK_LINES = re.compile(rf"{BREAK}(?:{BLANK}*{BREAK})+")

_OPENING = re.compile(r"\\\[|\\\(|\$\$|\\begin\{\w+\*?\}|```|\[asy\]")
_CLOSING = re.compile(r"\\\]|\\\)|\$\$|\\end\{\w+\*?\}|```|\[/asy\]|[\r\n]")


def blocks(text: str) -> list[tuple[int, int]]:
    """The spans of mathematics, code and drawings, in linear time. No sentence ends inside them.

    `\\(...\\)` must end in its line. What is never closed has no span.
    """
    ends: dict[str, list[int]] = {}
    for closing in _CLOSING.finditer(text):
        ends.setdefault("\n" if closing[0] == "\r" else closing[0], []).append(closing.start())
    spans: list[tuple[int, int]] = []
    position = 0
    while opening := _OPENING.search(text, position):
        close = _closing_of(opening[0])
        end = _next(ends.get(close, []), opening.end())
        if end is None or (close == r"\)" and (_next(ends.get("\n", []), opening.end()) or len(text)) < end):
            position = opening.start() + 1
            continue
        position = end + len(close)
        spans.append((opening.start(), position))
    return spans


def _closing_of(opening: str) -> str:
    pairs = {r"\[": r"\]", r"\(": r"\)", "[asy]": "[/asy]"}
    return pairs.get(opening, opening.replace(r"\begin", r"\end"))


def _next(positions: list[int], start: int) -> int | None:
    """The first of the sorted positions that is not before `start`."""
    index = bisect_left(positions, start)
    return positions[index] if index < len(positions) else None


def outside(blocks: list[tuple[int, int]], position: int) -> bool:
    """Whether a position is in none of the blocks."""
    index = bisect_left(blocks, (position, 0))
    return not index or blocks[index - 1][1] <= position
