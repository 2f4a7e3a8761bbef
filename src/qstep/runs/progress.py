"""The terminal output of a stage: its progress and its results.

Everything goes to standard error. A quiet console (`console.quiet`) shows results only.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

console = Console(stderr=True)


class _Remaining(TimeRemainingColumn):
    """The remaining time: the task's field `remaining`, or an estimate from its speed."""

    def render(self, task: Task) -> Text:
        remaining = task.fields.get("remaining")
        if remaining is None:
            return super().render(task)
        minutes, seconds = divmod(round(remaining), 60)
        return Text(f"{minutes // 60}:{minutes % 60:02}:{seconds:02}", style="progress.remaining")


@contextmanager
def bars() -> Iterator[Progress]:
    """Progress bars. If bars cannot be drawn, a line is printed when each is done.

    Bars need a terminal, or a notebook with ipywidgets.
    """
    columns = (
        TextColumn("{task.description:32}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        _Remaining(),
    )
    shown = console
    if console.is_jupyter and importlib.util.find_spec("ipywidgets") is None:
        shown = Console(stderr=True, quiet=console.quiet, force_jupyter=False, force_terminal=False)
    with Progress(*columns, console=shown, disable=console.quiet) as progress:
        yield progress


@contextmanager
def bar(description: str, total: int, done: int = 0) -> Iterator[Callable[[int], None]]:
    """One progress bar. Yields the function that advances it."""
    with bars() as progress:
        task = progress.add_task(description, total=total, completed=done)
        yield lambda n: progress.advance(task, n)


def say(text: str) -> None:
    """Prints a sentence on standard error, without wrapping and without markup."""
    console.print(text, soft_wrap=True, markup=False)


def say_written(path: Path, counts: Mapping[str, Any] | None = None) -> None:
    """Reports the file or folder that a command wrote, with counts of its content."""
    say(f"wrote {path}" + (f" ({counts_text(counts)})" if counts else ""))


def say_complete(path: Path) -> None:
    """Reports that the output of a command is already complete."""
    say(f"{path} is complete; nothing to do")


def reasons_text(counts: Mapping[str, int]) -> str:
    """Counts by reason as `2 (longer than max_length), 1 (no verdict)`."""
    return ", ".join(f"{count} ({reason})" for reason, count in counts.items())


def counts_text(counts: Mapping[str, Any]) -> str:
    """Counts as `rows: 40; verdicts: 30 right, 8 wrong, 2 ungradable`."""
    parts = []
    for name, value in counts.items():
        if isinstance(value, Mapping):
            inner = (f"{'unknown' if n is None else n} {what.replace('_', ' ')}" for what, n in value.items())
            value = ", ".join(inner) or "none"
        parts.append(f"{name.replace('_', ' ')}: {value}")
    return "; ".join(parts)


def print_result(*texts: Any, **style: Any) -> None:
    """Prints a result, even on a quiet console."""
    quiet, console.quiet = console.quiet, False
    try:
        console.print(*texts, **style)
    finally:
        console.quiet = quiet


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints a table with the rows' names in its first column. A table that is too wide becomes several.

    Each part repeats the names. No cell is cut, so a column wider than the terminal runs over its edge.
    """

    def table(first: int, end: int) -> Table:
        part = Table(title=title if first == 1 else f"{title}, continued", title_justify="left")
        for column in (columns[0], *columns[first:end]):
            part.add_column(column, no_wrap=True, justify="left" if column is columns[0] else "right")
        for row in rows:
            part.add_row(row[0], *row[first:end])
        return part

    def width(part: Table) -> int:
        return console.measure(part, options=console.options.update(width=10_000)).maximum

    first = 1
    while first < len(columns):
        end = first + 1
        while end < len(columns) and width(table(first, end + 1)) <= console.width:
            end += 1
        part = table(first, end)
        part.width = width(part)  # rich cuts a table without a width to the terminal's
        print_result(part, crop=False, no_wrap=True, overflow="ignore")
        first = end
