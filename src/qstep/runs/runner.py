"""The loop of every command that writes rows: open the file, skip finished rows, append blocks, report."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from qstep.data import read_rows
from qstep.runs.progress import bar, say_complete, say_written
from qstep.runs.stage_file import StageFile
from qstep.types import Row

T = TypeVar("T")


@dataclass(frozen=True)
class Work:
    """What a command writes.

    Args:
        total: the end of the progress bar.
        blocks: the rows, in blocks. Rows that an earlier run has written are dropped.
        summary: makes the summary in the file's sidecar from all rows of the file.
        done: the start of the progress bar. The default is the number of rows in the file.
        advance: returns how far the new rows of a block move the bar.
    """

    total: int
    blocks: Iterable[list[Row]]
    summary: Callable[[Iterator[Row]], Mapping[str, Any]]
    done: int | None = None
    advance: Callable[[list[Row]], int] = len


def write_rows(
    output: Path, stage: str, settings: Mapping[str, Any], work: Callable[[Collection[str]], Work]
) -> dict[str, Any]:
    """Writes a command's rows to `output`, resumes them after a kill, and returns the summary of the finished file.

    `work` is called with the ids of the rows in the file, unless the file is complete. If the blocks do not depend on
    those ids, a resumed run has the same blocks. So the same rows are computed together again.

    Raises what `StageFile.open` raises, and what the work raises.
    """
    with StageFile.open(output, stage=stage, settings=settings) as file:
        if file.complete:
            say_complete(output)
            return file.summary
        before = frozenset(file.done)
        todo = work(file.done)
        with bar(f"{stage} {output.stem}", todo.total, len(file.done) if todo.done is None else todo.done) as advance:
            for block in todo.blocks:
                new = [row for row in block if row["id"] not in before]
                file.append(new)
                advance(todo.advance(new))
        file.finish(todo.summary(read_rows(output, allow_torn=True)))
        say_written(output, {"rows": len(file.done), **file.summary})
        return file.summary


def in_blocks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yields lists of `size` items. The last one may be shorter."""
    rest = iter(items)
    while block := list(islice(rest, size)):
        yield block
