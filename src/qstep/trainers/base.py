"""What qstep's trainers share: losses per trajectory, divided by the number of trajectories in the whole step.

`transformers.Trainer` supplies checkpoints, resume, accumulation, distribution, PEFT and logging.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, Sampler
from transformers import PreTrainedTokenizerBase, Trainer, TrainingArguments

from qstep.trainers.checkpoints import sealed
from qstep.trainers.dataset import GroupDataset, LengthGroupedSampler


class NonFiniteLoss(RuntimeError):
    """A row's loss is NaN or infinite; the message names the row."""


class GroupTrainer(Trainer):
    """A Trainer whose `losses(model, inputs)` returns one loss per trajectory, `[B]`.

    The optimised loss is their sum over the global batch (all accumulation steps, all processes) divided by
    `count_items` of that batch, so neither the accumulation split nor the number of devices changes the result.
    A non-finite loss stops the run.

    settings: what the weights follow from, by name; each checkpoint's marker holds them.
    """

    train_dataset: GroupDataset
    settings: Mapping[str, Any] = {}

    def __init__(
        self,
        model: nn.Module,
        args: TrainingArguments,
        train_dataset: GroupDataset,
        collator: Callable[[list[dict[str, Any]]], dict[str, Tensor]],
        tokenizer: PreTrainedTokenizerBase,
        callbacks: list[Any] | None = None,
    ) -> None:
        args.remove_unused_columns = False
        args.logging_nan_inf_filter = False
        super().__init__(
            model=model,
            args=args,
            train_dataset=train_dataset,
            data_collator=collator,
            processing_class=tokenizer,
            callbacks=callbacks,
        )
        self.loss_is_scaled_for_ga = True
        self.recorded: dict[str, list[float]] = defaultdict(list)

    def losses(self, model: Any, inputs: dict[str, Tensor]) -> Tensor:
        """The loss of each trajectory, `[B]`."""
        raise TypeError(f"{type(self).__name__} does not say how its losses are computed")

    def count_items(self, inputs: dict[str, Tensor]) -> Tensor:
        """What the global loss is divided by: trajectories, unless a trainer says otherwise."""
        return torch.tensor(len(inputs["row_index"]))

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler | None:
        if self.args.train_sampling_strategy != "group_by_length":
            return super()._get_train_sampler(train_dataset)
        args = self.args
        batch_size = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        seed = args.seed if args.data_seed is None else args.data_seed
        return LengthGroupedSampler(self.train_dataset.lengths, batch_size, seed)

    def _get_num_items_in_batch(self, batch_samples: list, device: torch.device) -> Tensor | None:
        if not batch_samples:
            return None
        items = torch.stack([self.count_items(batch) for batch in batch_samples]).sum().to(device)
        return self.accelerator.gather(items).sum()

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        losses = self.losses(model, inputs)
        bad = (~losses.isfinite()).nonzero().flatten().tolist()
        if bad:
            row = self.train_dataset.row(int(inputs["row_index"][bad[0]]))
            raise NonFiniteLoss(
                f"step {self.state.global_step}: the loss of row {row.get('id', row)!r} of {self.train_dataset.path} "
                f"is {losses[bad[0]].item()} ({len(bad)} such rows in this batch). Lower the learning rate, or look "
                "at the row."
            )
        items = self.count_items(inputs) if num_items_in_batch is None else num_items_in_batch
        return losses.sum() / items * self.accelerator.num_processes

    def record(self, **metrics: float) -> None:
        """Adds to the averages that the next log line shows; double underscores become slashes."""
        for name, value in metrics.items():
            self.recorded[name.replace("__", "/")].append(value)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        means = {name: sum(values) / len(values) for name, values in self.recorded.items()}
        self.recorded.clear()
        super().log({**logs, **means}, start_time)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        with sealed(self, self.settings):
            super()._save_checkpoint(model, trial)

    def _init_training_state(self, max_steps: int, *rest: Any) -> tuple[int, int]:
        begun = super()._init_training_state(max_steps, *rest)
        self.state.compute_steps(self.args, max_steps)  # how often to log and save is not a checkpoint's to say
        return begun

    def _run_epoch(self, *args: Any, **options: Any) -> None:
        """Takes no step where the checkpoint that was resumed has taken the last one."""
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
        else:
            super()._run_epoch(*args, **options)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """Writes model and tokenizer; not the pickled arguments, in which a token would travel."""
        folder = Path(output_dir or str(self.args.output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        self.bare_model.save(folder, state_dict)
        assert isinstance(self.processing_class, PreTrainedTokenizerBase)
        self.processing_class.save_pretrained(folder)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        self.bare_model.restore(Path(resume_from_checkpoint))

    @property
    def bare_model(self) -> Any:
        """The model without the wrappers of distributed training."""
        return self.accelerator.unwrap_model(self.model)
