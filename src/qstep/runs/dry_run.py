"""A dry run: a command runs until it would write its output, and then reports what it would do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

_dry = ContextVar("dry", default=False)


class WouldWrite(Exception):
    """A dry run reached the point at which the command writes `path`. `outcome` says what it would do there."""

    def __init__(self, path: Path, outcome: str) -> None:
        super().__init__(f"{path}: {outcome}")
        self.path = path
        self.outcome = outcome


@contextmanager
def dry_run() -> Iterator[None]:
    """Inside this context, commands raise WouldWrite instead of writing their output."""
    token = _dry.set(True)
    try:
        yield
    finally:
        _dry.reset(token)


def is_dry_run() -> bool:
    """Whether this is a dry run, which must not write outputs."""
    return _dry.get()


def stop_dry_run(output: Path) -> None:
    """Ends a dry run at the point where the command would write or replace `output`."""
    if is_dry_run():
        raise WouldWrite(output, "replaced" if output.exists() else "new")
