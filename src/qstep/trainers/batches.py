"""The items of each step, whatever the number of processes, and each process's share of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from heapq import heapify, heapreplace
from itertools import chain, count
from typing import TYPE_CHECKING, Any

import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Sampler
from transformers import TrainingArguments

from qstep.models.packable import eval_mode
from qstep.objectives.batch import ResponseBatch
from qstep.objectives.config import GroupConfig
from qstep.objectives.dataset import GroupDataset, Item

if TYPE_CHECKING:
    from qstep.trainers.group_trainer import GroupTrainer


class StepSampler(Sampler[list[list[int]]]):
    """The micro-batches of one process, `accumulation` a step. Each is a list of parts, and a part lists item numbers.

    A step takes consecutive items of a shuffled order that depends only on seed and epoch. They are divided into parts
    with about the same number of tokens. Each process and micro-batch gets the same number of parts, as few as
    `max_tokens` allows. If there are fewer items than parts, an empty part gets `~i` (negative), where i is the step's
    shortest item. It is computed, so that no process waits for another, but it counts as nothing.

    Args:
        lengths: the size of each item. Memory and time of a part grow with the sum of its sizes.
        step_items: items per step, over all processes and accumulation.
        accumulation: micro-batches per step and process.
        max_tokens: largest sum of sizes of a part with several items. If None, a micro-batch is one part.
        shuffle: False keeps the order of the file.
        drop_last: leaves out the items of an incomplete last step.
    """

    def __init__(
        self,
        lengths: NDArray,
        step_items: int,
        *,
        accumulation: int = 1,
        max_tokens: int | None = None,
        process: int = 0,
        processes: int = 1,
        seed: int = 0,
        shuffle: bool = True,
        drop_last: bool = False,
    ) -> None:
        self.lengths, self.step_items, self.accumulation = lengths, step_items, accumulation
        self.max_tokens = max_tokens
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

    def __iter__(self) -> Iterator[list[list[int]]]:
        order = self.order(self.epoch)
        for step in range(self.steps):
            items = self.step(order, step)
            shortest = min(items, key=lambda i: int(self.lengths[i]))
            parts = [part or [~shortest] for part in self._parts(items)[self.process :: self.processes]]
            each = len(parts) // self.accumulation
            for first in range(0, len(parts), each):
                yield parts[first : first + each]

    def _parts(self, items: list[int]) -> list[list[int]]:
        """The parts of a step, over all processes."""
        sizes = [int(self.lengths[i]) for i in items]
        batches = self.accumulation * self.processes
        if self.max_tokens is None:
            return deal(items, sizes, batches)
        for each in count(max(1, math.ceil(sum(sizes) / (self.max_tokens * batches)))):
            parts = deal(items, sizes, each * batches)
            if all(len(part) <= 1 or self.lengths[part].sum() <= self.max_tokens for part in parts):
                break
        return parts


def step_sampler(
    dataset: GroupDataset, config: GroupConfig, *, training: bool, process: int = 0, processes: int = 1
) -> StepSampler:
    """The order of a data set in training or evaluation."""
    accumulation = config.gradient_accumulation_steps if training else 1
    size = config.per_device_train_batch_size if training else config.per_device_eval_batch_size
    return StepSampler(
        dataset.lengths if config.max_tokens_per_batch is None else dataset.tokens,
        size * accumulation * processes,
        accumulation=accumulation,
        max_tokens=config.max_tokens_per_batch,
        process=process,
        processes=processes,
        seed=config.seed if config.data_seed is None else config.data_seed,
        shuffle=training and config.train_sampling_strategy == "random",
        drop_last=training and config.dataloader_drop_last,
    )


def deal(items: Sequence[int], lengths: Sequence[int], shares: int) -> list[list[int]]:
    """Divides items into `shares` lists of about equal length. Each item, longest first, goes to the shortest list.

    Within a list the items keep their order. Lists are empty only if there are fewer items than lists.
    """
    shortest = [(False, 0, share) for share in range(shares)]  # empty ones first
    heapify(shortest)
    taken: list[list[int]] = [[] for _ in range(shares)]
    for place in sorted(range(len(items)), key=lambda place: -lengths[place]):
        _, total, share = shortest[0]
        taken[share].append(place)
        heapreplace(shortest, (True, total + lengths[place], share))
    return [[items[place] for place in sorted(places)] for places in taken]


def group_loader(dataset: GroupDataset, sampler: StepSampler, args: TrainingArguments, collate: Any) -> DataLoader:
    """A data loader of the sampler's micro-batches, with the data loader options of `args`."""
    return DataLoader(
        dataset,
        batch_sampler=sampler,
        collate_fn=lambda parts: [collate(items) for items in parts],
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


def begin_step(trainer: GroupTrainer, model: Any, batches: Iterable[list[ResponseBatch]]) -> None:
    """Shows the objective the parts of a step's micro-batches before it is trained on any."""
    parts = chain.from_iterable(batches)
    prepared: Iterable[Any] = (trainer._prepare_inputs(part) for part in parts)  # type: ignore[arg-type]
    with torch.no_grad(), eval_mode(model), trainer.compute_loss_context_manager():
        trainer.objective.begin_step(model, prepared)
