"""A dry run: a command runs until it would write its output, and says what would become of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

_dry = ContextVar("dry", default=False)


class WouldWrite(Exception):
    """A dry run reached the place where the command writes `path`; `outcome` says what it would do there."""

    def __init__(self, path: Path, outcome: str) -> None:
        super().__init__(f"{path}: {outcome}")
        self.path = path
        self.outcome = outcome


@contextmanager
def dry_run() -> Iterator[None]:
    """Commands in here raise WouldWrite instead of writing their output."""
    token = _dry.set(True)
    try:
        yield
    finally:
        _dry.reset(token)


def is_dry_run() -> bool:
    """Whether outputs may not be written now."""
    return _dry.get()
