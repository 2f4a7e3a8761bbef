"""Blocks of rows."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

T = TypeVar("T")


def in_blocks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yields lists of `size` items, the last of as many as are left."""
    rest = iter(items)
    while block := list(islice(rest, size)):
        yield block
