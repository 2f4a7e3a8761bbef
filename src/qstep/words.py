"""Counts and lists for English sentences."""

from __future__ import annotations

from collections.abc import Sequence


def counted(number: int, one: str, many: str | None = None) -> str:
    """`1 row` or `2 rows`. `many` is the plural if it is not `one` with an s."""
    return f"{number} {one if number == 1 else many or one + 's'}"


def listed(names: Sequence[str], last: str = "and") -> str:
    """`a`, `a and b`, or `a, b and c`."""
    *before, end = names
    return f"{', '.join(before)} {last} {end}" if before else end


def shortened(names: Sequence[str], total: int) -> str:
    """`a, b`, and with `, ...` after them if there are more in total than these."""
    return ", ".join(names) + (", ..." if total > len(names) else "")
