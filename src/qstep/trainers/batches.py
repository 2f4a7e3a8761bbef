"""The items of each step, whatever the number of processes, and each process's share of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Sampler
from transformers import TrainingArguments

from qstep.objectives.batch import ResponseBatch
from qstep.objectives.dataset import GroupDataset, Item

if TYPE_CHECKING:
    from qstep.trainers.group_trainer import GroupTrainer


class StepSampler(Sampler[list[int]]):
    """The micro-batches of one process: lists of item numbers, `accumulation` lists a step.

    A step takes consecutive items of a shuffled order that depends only on seed and epoch. They are divided into
    `accumulation * processes` lists with about the same number of tokens. If there are fewer items than lists, an
    empty list gets `~i` (negative), where i is the step's shortest item. It is computed, so that no process waits for
    another, but it counts as nothing.

    Args:
        lengths: the size of each item. Memory and time of a micro-batch grow with the sum of its sizes.
        step_items: items per step, over all processes and accumulation.
        accumulation: micro-batches per step and process.
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
        complete, rest = divmod(len(lengths), step_items)
        self.steps = complete if drop_last else complete + (rest > 0)
        self.epoch = 0
        if self.steps == 0:
            raise ValueError(
                f"{len(lengths)} items do not fill a step of {step_items}, and --dataloader_drop_last leaves out "
                "incomplete steps. Set it to false, or make the batch smaller"
            )

    @property
    def batch_sampler(self) -> StepSampler:
        """Itself. After skipped batches, Trainer looks for `set_epoch` one wrapper deep."""
        return self

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.steps * self.accumulation

    def order(self, epoch: int) -> Tensor:
        """The item numbers of an epoch in the order of training."""
        if not self.shuffle:
            return torch.arange(len(self.lengths))
        return torch.randperm(len(self.lengths), generator=torch.Generator().manual_seed(self.seed + epoch))

    def step(self, order: Tensor, step: int) -> list[int]:
        """The items of one step, over all processes."""
        return order[step * self.step_items : (step + 1) * self.step_items].tolist()

    def reached(self, steps: int) -> list[int]:
        """The items of the first `steps` steps, in ascending order."""
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
    """Divides items into `shares` lists of about equal length. Each item, longest first, goes to the shortest list.

    Within a list the items keep their order. Lists are empty only if there are fewer items than lists.
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
    """A data loader of the sampler's batches, with the data loader options of `args`."""
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
    """Adds the row number and the weight of each response."""
    batch["row_index"] = torch.tensor([number for item in items for number in item["row_index"]])
    batch["row_weight"] = torch.tensor([item["weight"] for item in items for _ in item["row_index"]])
    return batch


def begin_step(trainer: GroupTrainer, model: Any, batches: Iterable[ResponseBatch]) -> None:
    """Shows the objective the micro-batches of a step before any is trained on."""
    prepared: Iterable[Any] = (trainer._prepare_inputs(batch) for batch in batches)  # type: ignore[arg-type]
    training = model.training
    model.eval()
    with torch.no_grad(), trainer.compute_loss_context_manager():
        trainer.objective.begin_step(model, prepared)
    model.train(training)
