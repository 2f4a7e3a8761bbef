"""What qstep's trainers share: losses per trajectory, divided by the number of trajectories in the whole step.

`transformers.Trainer` supplies checkpoints, resume, accumulation, distribution and logging.
"""

from __future__ import annotations

import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase, Trainer, TrainerCallback, TrainerControl, TrainerState
from transformers.trainer_utils import EvalLoopOutput, SaveStrategy

from qstep.models import Batch, ModelOptions, PretrainedModule
from qstep.trainers.averages import Averages
from qstep.trainers.batches import StepSampler
from qstep.trainers.checkpoints import sealed, why_unusable
from qstep.trainers.dataset import GroupConfig, GroupDataset, Item
from qstep.trainers.processes import somewhere, together

_OVERFLOWS = 25
"""fp16 steps that may overflow one after another: the loss scale starts at 2^16 and halves at each."""

_WIDE = 512
"""Hidden size from which keeping a layer's products only costs a CPU next to nothing; in a tiny model it doubles the
time of a step, most of which is then bookkeeping."""

_log = logging.getLogger(__name__)


class NonFiniteLoss(RuntimeError):
    """A row's loss, or the gradient, is NaN or infinite; the message names the row or the step."""


class GroupTrainer(Trainer, ABC):
    """A Trainer on groups: `rows` reads a file, `collate` makes items a batch, `losses` gives one loss a response.

    The optimised loss is their sum over the global batch (all accumulation steps, all processes) divided by
    `count_items` of that batch, so neither the accumulation split nor the number of devices changes the result. What
    is recorded, and the evaluation's loss and metrics, are averaged in the same way.

    A loss or gradient that is not finite stops the run, on all processes. In fp16 it is an overflow instead: GradScaler
    skips the step, which the log counts and leaves out of its averages, and only many in a row stop the run, or a run
    of skipped steps alone.

    Raises, when it is made, what `select_rows` raises of bad rows, and ValueError for options that cannot be meant.

    settings: what the weights follow from, by name; each checkpoint's marker holds them.
    write_card: writes the model card beside the saved model; transformers' draft is written where there is none.
    """

    train_dataset: GroupDataset
    eval_dataset: GroupDataset | None
    config: Any  # the GroupConfig of the method
    settings: Mapping[str, Any] = {}
    write_card: Callable[[], object] | None = None

    def __init__(
        self,
        model: PretrainedModule,
        args: GroupConfig,
        train_file: Path,
        tokenizer: PreTrainedTokenizerBase,
        *,
        eval_file: Path | None = None,
        callbacks: list[Any] | None = None,
    ) -> None:
        args.remove_unused_columns = False
        args.logging_nan_inf_filter = False
        if args.train_sampling_strategy not in ("random", "sequential"):
            raise ValueError(
                f"train_sampling_strategy is {args.train_sampling_strategy!r}: choose random or sequential. Batches "
                "hold no padding, and each process gets about as many tokens: lengths have nothing to gain"
            )
        if (args.eval_strategy != "no" or args.eval_on_start) and eval_file is None:
            raise ValueError("eval_strategy asks for evaluations: give an eval_file")
        if eval_file is not None and args.eval_strategy == "no" and not args.eval_on_start:
            raise ValueError(f"nothing reads --eval_file {eval_file}: give --eval_strategy steps or epoch")
        limit = model.learned_positions
        if limit is not None and args.max_length > limit:
            raise ValueError(f"--max_length is {args.max_length}, and this model has {limit} positions: give {limit}")
        if args.n_gpu > 1:
            # Trainer would replicate the model within this process (nn.DataParallel).
            _log.warning("%d GPUs are visible, and one is used: start with torchrun to use more", args.n_gpu)
            args._n_gpu = 1
        self.config, self.tokenizer = args, tokenizer
        super().__init__(
            model=model,
            args=args,
            train_dataset=self.rows(train_file),
            eval_dataset=None if eval_file is None else self.rows(eval_file),
            data_collator=lambda items: _weighted(self.collate(items), items),
            processing_class=tokenizer,
            callbacks=callbacks,
        )
        wide = model.config.get_text_config().hidden_size >= _WIDE
        if wide and args.device.type == "cpu" and not args.activation_checkpointing:
            model.keep_products_only()
        if args.fp16 and any(p.dtype == torch.float16 for p in model.parameters() if p.requires_grad):
            raise ValueError("--fp16 scales the gradients of weights in fp32, and these are in fp16: --dtype float32")
        if args.fp16 and args.device.type == "cpu":  # of which accelerate would say nothing, and compute in fp32
            self.accelerator.native_amp = True
            self.accelerator.scaler = torch.amp.GradScaler("cpu")
        self.loss_is_scaled_for_ga = True
        self.overflows, self.overflowed_at = 0, -1
        self.steps, self.skipped = 0, 0  # since the last line of the log
        self.learned: bool | None = None  # whether any step was not skipped; None before the first
        self._loss_before = torch.zeros((), device=args.device)
        self.add_callback(_LogWhereItMatters())
        self.averages, self._averages_before = Averages(), Averages()

    @classmethod
    def create(cls, options: ModelOptions, config: GroupConfig, *rest: Any, **more: Any) -> GroupTrainer:
        """The trainer of a new model; `rest` and `more` are what the class takes after model and config."""
        return cls(cls.new_model(options, config), config, *rest, **more)

    @classmethod
    @abstractmethod
    def new_model(cls, options: ModelOptions, config: Any) -> PretrainedModule:
        """The model that training starts from."""

    @abstractmethod
    def rows(self, path: Path) -> GroupDataset:
        """The rows of a file that are trained on, or evaluated on."""

    @abstractmethod
    def collate(self, items: list[Item]) -> Batch:
        """Some items of a data set as a batch of groups."""

    @abstractmethod
    def losses(self, model: Any, inputs: Batch) -> Tensor:
        """The loss of each trajectory, `[B]`."""

    def count_items(self, inputs: Batch) -> Tensor:
        """What each trajectory adds to the number that the global loss is divided by, `[B]`."""
        return torch.ones_like(inputs["row_weight"])

    def sampler(self, dataset: GroupDataset, *, training: bool) -> StepSampler:
        """The order in which a data set is learned from, or evaluated on."""
        args = self.args
        accumulation = args.gradient_accumulation_steps if training else 1
        size = self._train_batch_size if training else args.eval_batch_size
        return StepSampler(
            dataset.lengths,
            size * accumulation * args.world_size,
            accumulation=accumulation,
            process=args.process_index,
            processes=args.world_size,
            seed=args.seed if args.data_seed is None else args.data_seed,
            shuffle=training and args.train_sampling_strategy == "random",
            drop_last=training and args.dataloader_drop_last,
        )

    def get_train_dataloader(self) -> DataLoader:
        return self._loader(self.train_dataset, training=True)

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader:
        return self._loader(self.eval_dataset if eval_dataset is None else eval_dataset, training=False)

    def _loader(self, dataset: Any, *, training: bool) -> DataLoader:
        args = self.args
        return DataLoader(
            dataset,
            batch_sampler=self.sampler(dataset, training=training),
            collate_fn=self.data_collator,
            num_workers=args.dataloader_num_workers,
            pin_memory=args.dataloader_pin_memory and args.device.type != "cpu",
            persistent_workers=args.dataloader_persistent_workers,
            prefetch_factor=args.dataloader_prefetch_factor,
        )

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> tuple[list, Any]:
        """The micro-batches of a step; where one process cannot read its own, none goes on."""
        batches = together(lambda: [batch for _, batch in zip(range(num_batches), epoch_iterator, strict=False)])
        return batches, self._get_num_items_in_batch(batches, device)

    def _get_num_items_in_batch(self, batch_samples: list, device: torch.device) -> Tensor | None:
        if not batch_samples:
            return None
        items = sum((self.count_items(batch) * batch["row_weight"]).sum() for batch in batch_samples)
        return self.accelerator.gather(torch.as_tensor(items).to(device)).sum()

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        weights = inputs["row_weight"]
        counted = weights > 0
        before = self.averages.copy()
        losses = self.losses(model, inputs)
        if not counted.any():
            self.averages = before
        self._refuse_non_finite(losses, counted, inputs)
        items = (self.count_items(inputs) * weights).sum() if num_items_in_batch is None else num_items_in_batch
        return losses.masked_fill(~counted, 0.0).sum() / items * self.accelerator.num_processes

    def _refuse_non_finite(self, losses: Tensor, counted: Tensor, inputs: Batch) -> None:
        bad = ~losses.isfinite() & counted
        if not somewhere(bad.any()) or self._is_overflow():
            return
        if not bad.any():
            raise NonFiniteLoss(f"step {self.state.global_step}: a row's loss is not finite on another process")
        places = bad.nonzero().flatten().tolist()
        number = int(inputs["row_index"][places[0]])
        dataset = self.train_dataset
        row = dataset.row(number)
        raise NonFiniteLoss(
            f"step {self.state.global_step}: the loss of row {row.get('id', row)!r} ({dataset.where(number)}) is "
            f"{losses[places[0]].item()} ({len(places)} such rows in this batch). Lower the learning rate, or look at "
            "the row."
        )

    def _is_overflow(self) -> bool:
        """Counts a step that is not finite; whether it is one that fp16's loss scale will skip."""
        step = self.state.global_step
        if step != self.overflowed_at:  # else an earlier micro-batch of this step has overflowed
            self.overflows = self.overflows + 1 if step == self.overflowed_at + 1 else 1
            self.overflowed_at = step
        return self.accelerator.scaler is not None and self.overflows <= _OVERFLOWS

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> float | None:
        norm: float | None = super()._get_grad_norm(model, grad_norm)
        if norm is not None and not math.isfinite(norm) and not self._is_overflow():
            raise NonFiniteLoss(
                f"step {self.state.global_step}: the gradient is not finite ({norm}), although every row's loss is. "
                "Lower the learning rate, or train in bf16 or fp32"
            )
        self.steps += 1
        skipped = self.overflowed_at == self.state.global_step
        if skipped:  # it has no part in what is logged
            self._tr_loss.copy_(self._loss_before)
            self.averages = self._averages_before
            self.skipped += 1
        self.learned = bool(self.learned) or not skipped
        self._loss_before, self._averages_before = self._tr_loss.clone(), self.averages.copy()
        return norm

    def record(self, **values: Tensor) -> None:
        """Adds to the averages that the next log line shows; double underscores in a name become slashes."""
        for name, value in values.items():
            self.averages.add(name.replace("__", "/"), value.detach().float())

    def summarised(self, means: dict[str, float]) -> dict[str, float]:
        """What is logged, given the means of what was recorded."""
        return means

    def _means(self) -> dict[str, float]:
        """The averages over all processes of what was recorded; forgets it. Called by all of them."""
        averages, self.averages = self.averages, Averages()
        return self.summarised(averages.means())

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            counted = self.steps - self.skipped
            mean = logs["loss"] * self.steps / counted if counted else math.nan
            logs = {**logs, "loss": mean, **({"skipped_steps": self.skipped} if self.skipped else {}), **self._means()}
            self.steps, self.skipped = 0, 0
            self._averages_before = Averages()
            self._loss_before = torch.zeros_like(self._tr_loss)
        # null: JSON has no NaN
        super().log({name: None if _is_odd(value) else value for name, value in logs.items()}, start_time)  # type: ignore[misc]

    def train(self, *args: Any, **options: Any) -> Any:
        output = super().train(*args, **options)
        if self.learned is False:
            raise NonFiniteLoss(
                "every step overflowed fp16 and was skipped, so nothing was learned: train in bf16 or fp32, which "
                "names the row if its loss is not finite there"
            )
        return output

    def evaluate(self, *args: Any, **options: Any) -> dict[str, float]:
        with torch.random.fork_rng():  # so that the weights do not depend on how often they are evaluated
            return super().evaluate(*args, **options)

    def evaluation_loop(
        self,
        dataloader: DataLoader,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """The mean loss over all of a data set, and the means of what `losses` records."""
        model: Any = self.model
        if not self.accelerator._models:
            model = self.accelerator.prepare_model(model, evaluation_mode=True)
        model.eval()
        training, self.averages = self.averages, Averages()
        iterator = iter(dataloader)
        for _ in range(len(dataloader)):
            inputs = self._prepare_inputs(together(lambda: next(iterator)))
            before = self.averages.copy()
            with torch.no_grad():
                losses = self.losses(model, inputs)
            weights = inputs["row_weight"]
            if not weights.any():
                self.averages = before
            items = int((self.count_items(inputs) * weights).sum())
            self.averages.add("loss", losses.masked_fill(weights == 0, 0.0), items)
            self.control = self.callback_handler.on_prediction_step(self.args, self.state, self.control)
        means, self.averages = self._means(), training
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in means.items()}
        return EvalLoopOutput(None, None, metrics, len(dataloader.dataset))  # type: ignore[arg-type]

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

    def create_model_card(self, *args: Any, **options: Any) -> None:
        if self.write_card is None:
            super().create_model_card(*args, **options)
        elif self.is_world_process_zero():
            self.write_card()

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        self.bare_model.restore(Path(resume_from_checkpoint))

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        try:
            return super()._determine_best_metric(metrics, trial)
        except KeyError as error:
            raise ValueError(str(error.args[0])) from None

    def _load_best_model(self) -> None:
        best = Path(str(self.state.best_model_checkpoint))

        def check() -> None:
            if self.args.should_save and (reason := why_unusable(best, self.settings)) is not None:
                raise ValueError(f"{best}, the best checkpoint, cannot be loaded: {reason}")

        together(check)
        self.bare_model.restore(best)

    @property
    def bare_model(self) -> Any:
        """The model without the wrappers of distributed training."""
        return self.accelerator.unwrap_model(self.model)


class _LogWhereItMatters(TrainerCallback):
    """A line of the log at the last step, and before each checkpoint.

    What the next line averages begins after it, so a resumed run logs what an undisturbed one does; and a folder with a
    checkpoint has a log, whose settings are compared.
    """

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        may_save = control.should_save or (args.save_strategy == SaveStrategy.BEST and control.should_evaluate)
        if may_save or state.global_step >= state.max_steps:
            control.should_log = True

    on_epoch_end = on_step_end


def _weighted(batch: Batch, items: list[Item]) -> Batch:
    """Adds which row of the file each response is, `row_index [B]`, and what it counts, `row_weight [B]`."""
    batch["row_index"] = torch.tensor([number for item in items for number in item["row_index"]])
    batch["row_weight"] = torch.tensor([item["weight"] for item in items for _ in item["row_index"]])
    return batch


def _is_odd(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)
