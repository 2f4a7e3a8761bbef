"""Which items a step learns from, whatever the number of processes, and each process's share of them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Sampler
from transformers import TrainingArguments

from qstep.objectives.batch import ResponseBatch
from qstep.objectives.dataset import GroupDataset, Item


class StepSampler(Sampler[list[int]]):
    """The micro-batches of one process: lists of item numbers, `accumulation` lists a step.

    A step's items are consecutive ones of a shuffled order that depends on seed and epoch alone. They are dealt out
    to `accumulation * processes` lists of about the same number of tokens. Where there are fewer items than lists, an
    empty one stands in with `~i` (negative) of the step's shortest item i: to be computed, so that no process waits
    for another, and counted as nothing.

    Args:
        lengths: the size of each item; memory and time of a micro-batch go with their sum.
        step_items: items a step, over all processes and accumulation.
        accumulation: micro-batches a step and process.
        shuffle: False keeps the order of the file.
        drop_last: leaves out the items of an incomplete last step.
    """

    def __init__(
        self,
        lengths: NDArray,
        step_items: int,
        *,
        accumulation: int = 1,
        process: int = 0,
        processes: int = 1,
        seed: int = 0,
        shuffle: bool = True,
        drop_last: bool = False,
    ) -> None:
        self.lengths, self.step_items, self.accumulation = lengths, step_items, accumulation
        self.process, self.processes = process, processes
        self.seed, self.shuffle = seed, shuffle
        whole, rest = divmod(len(lengths), step_items)
        self.steps = whole if drop_last else whole + (rest > 0)
        self.epoch = 0
        if self.steps == 0:
            raise ValueError(
                f"{len(lengths)} items are less than a step's {step_items}, and dataloader_drop_last is set"
            )

    @property
    def batch_sampler(self) -> StepSampler:
        """Itself: Trainer looks for `set_epoch` one wrapper deep, which is where it is after skipped batches."""
        return self

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.steps * self.accumulation

    def order(self, epoch: int) -> Tensor:
        """The item numbers of an epoch in the order they are learned from."""
        if not self.shuffle:
            return torch.arange(len(self.lengths))
        return torch.randperm(len(self.lengths), generator=torch.Generator().manual_seed(self.seed + epoch))

    def step(self, order: Tensor, step: int) -> list[int]:
        """The items of one step, over all processes."""
        return order[step * self.step_items : (step + 1) * self.step_items].tolist()

    def reached(self, steps: int) -> list[int]:
        """The items that the first `steps` steps learn from, in ascending order."""
        seen = torch.zeros(len(self.lengths), dtype=torch.bool)
        for epoch in range(math.ceil(steps / self.steps)):
            left = min(steps - epoch * self.steps, self.steps)
            seen[self.order(epoch)[: left * self.step_items]] = True
            if seen.all():
                break
        return seen.nonzero().flatten().tolist()

    def __iter__(self) -> Iterator[list[int]]:
        order = self.order(self.epoch)
        for step in range(self.steps):
            items = self.step(order, step)
            shares = deal(items, [int(self.lengths[i]) for i in items], self.accumulation * self.processes)
            shortest = min(items, key=lambda i: int(self.lengths[i]))
            for share in shares[self.process :: self.processes]:
                yield share or [~shortest]


def deal(items: Sequence[int], lengths: Sequence[int], shares: int) -> list[list[int]]:
    """Items in `shares` lists of about equal total length: the longest first, each to the shortest list so far.

    Within a list the items keep their order. Lists are empty only where there are fewer items than lists.
    """
    totals = [0] * shares
    counts = [0] * shares
    share_of: dict[int, int] = {}
    for place in sorted(range(len(items)), key=lambda place: -lengths[place]):
        share = min(range(shares), key=lambda share: (counts[share] > 0, totals[share]))
        share_of[place] = share
        totals[share] += lengths[place]
        counts[share] += 1
    return [[items[place] for place in range(len(items)) if share_of[place] == share] for share in range(shares)]


def group_loader(dataset: GroupDataset, sampler: StepSampler, args: TrainingArguments, collate: Any) -> DataLoader:
    """A loader of the batches that the sampler names, with the options for loaders."""
    return DataLoader(
        dataset,
        batch_sampler=sampler,
        collate_fn=collate,
        num_workers=args.dataloader_num_workers,
        pin_memory=args.dataloader_pin_memory and args.device.type != "cpu",
        persistent_workers=args.dataloader_persistent_workers,
        prefetch_factor=args.dataloader_prefetch_factor,
    )


def with_weights(batch: ResponseBatch, items: list[Item]) -> ResponseBatch:
    """Adds which row of the file each response is, and what it counts."""
    batch["row_index"] = torch.tensor([number for item in items for number in item["row_index"]])
    batch["row_weight"] = torch.tensor([item["weight"] for item in items for _ in item["row_index"]])
    return batch
