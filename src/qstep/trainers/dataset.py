"""A trajectory file as a training set: read by byte offset, so memory does not grow with the length of its rows."""

from __future__ import annotations

import json
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset, Sampler

from qstep.data import Format, check_row, numbered_rows, prompt_id
from qstep.types import Row

_POOL = 20
"""Batches' worth of items that are sorted by length together."""


class GroupDataset(Dataset[dict[str, Any]]):
    """Chunks of one problem's rows, the unit a batch is made of.

    Item i is `{"rows": [Row, ...], "row_index": [int, ...]}`: at most `responses_per_prompt` responses of one
    problem (all of them if None), `row_index` counting the kept rows of the file. `lengths[i]` is the size of its
    longest row in bytes of the file, which goes with its number of tokens.

    Args:
        path: JSONL rows; those of one `problem_id` (or, without one, of equal prompts) form a group.
        format: the columns the rows must have.
        leave_out: names the reason to leave a row out, or None to keep it; `left_out` counts the reasons. It is
            called with the row and a name for its place, and may raise.

    Raises:
        RowError: a row is bad.
        ValueError: no row is left to train on.
    """

    def __init__(
        self,
        path: Path,
        *,
        format: Format,
        responses_per_prompt: int | None,
        leave_out: Callable[[Row, str], str | None],
    ) -> None:
        self.path = path
        self.format = format
        self.left_out: Counter[str] = Counter()
        self.offsets = array("q")
        groups: dict[str, list[int]] = {}
        starts, sizes = _line_starts(path), array("q")
        for line, raw in numbered_rows(path):
            row = check_row(path, line, raw, format)
            reason = leave_out(row, f"{path}, line {line}")
            if reason is not None:
                self.left_out[reason] += 1
                continue
            groups.setdefault(row.get("problem_id") or prompt_id(row), []).append(len(self.offsets))
            self.offsets.append(starts[line - 1])
            sizes.append(starts[line] - starts[line - 1])
        if not groups:
            raise ValueError(f"{path}: no row is left to train on; left out: {dict(self.left_out)}")
        self.chunks = [chunk for rows in groups.values() for chunk in _chunks(rows, responses_per_prompt)]
        self.lengths = [max(sizes[row] for row in chunk) for chunk in self.chunks]

    def __len__(self) -> int:
        return len(self.chunks)

    def __getitem__(self, index: int) -> dict[str, Any]:
        rows = self.chunks[index]
        return {"rows": [self.row(i) for i in rows], "row_index": rows}

    def row(self, index: int) -> Row:
        """The kept row of that number."""
        with self.path.open("rb") as file:
            file.seek(self.offsets[index])
            return check_row(self.path, index, json.loads(file.readline()), self.format)


class LengthGroupedSampler(Sampler[int]):
    """A random order in which the `batch_size` items of a batch are of like length, so that little is padded.

    Shuffled items are sorted within pools of some batches, and the batches shuffled in turn; an incomplete batch
    comes last. (transformers' sampler of this name goes through each pool from its longest batch to its shortest,
    so that the length of what is learned rises and falls with the steps.)
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int) -> None:
        self.lengths, self.batch_size, self.seed = lengths, batch_size, seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        order = torch.randperm(len(self.lengths), generator=generator).tolist()
        pools = _chunks(order, _POOL * self.batch_size)
        batches = [
            batch for pool in pools for batch in _chunks(sorted(pool, key=self.lengths.__getitem__), self.batch_size)
        ]
        last = [batches.pop()] if len(batches[-1]) < self.batch_size else []
        for i in torch.randperm(len(batches), generator=generator).tolist():
            yield from batches[i]
        for batch in last:
            yield from batch


def _chunks(rows: list[int], size: int | None) -> list[list[int]]:
    size = size or len(rows)
    return [rows[i : i + size] for i in range(0, len(rows), size)]


def _line_starts(path: Path) -> array[int]:
    starts = array("q", [0])
    with path.open("rb") as file:
        for line in file:
            starts.append(starts[-1] + len(line))
    return starts
