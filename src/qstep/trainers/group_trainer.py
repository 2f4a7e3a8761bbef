"""The trainer of every objective. It divides the losses of trajectories by the items of the optimizer step.

`transformers.Trainer` supplies checkpoints, resume, accumulation, distribution and logging.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from itertools import chain
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase
from transformers.trainer_utils import EvalLoopOutput

from qstep.models import PolicyModel, PretrainedModule
from qstep.models.sharding import full_tensor, reshard, shard
from qstep.objectives.batch import ResponseBatch
from qstep.objectives.config import GroupConfig
from qstep.objectives.dataset import GroupDataset, Item
from qstep.objectives.metrics import of_policy
from qstep.objectives.objective import Objective, Recorded
from qstep.processes import together
from qstep.trainers import precision
from qstep.trainers.arguments import check_arguments
from qstep.trainers.averages import Averages, LogWhereItMatters
from qstep.trainers.batches import StepSampler, begin_step, group_loader, step_sampler, with_weights
from qstep.trainers.checkpointed_trainer import CheckpointedTrainer
from qstep.trainers.common_fall import WarnOfCommonFall
from qstep.trainers.early_stopping import stopped_early
from qstep.trainers.evaluation import evaluate_all
from qstep.trainers.finite import FiniteWatch
from qstep.trainers.optimizer import parameter_groups
from qstep.trainers.reference import add_reference
from qstep.trainers.sampled_accuracy import SampledAccuracy
from qstep.trainers.sharding import hidden_from_accelerate


class GroupTrainer(CheckpointedTrainer):
    """Trains an objective on groups of responses.

    The loss is the sum of the objective's losses over the global batch, divided by its `count_items` there. The global
    batch covers all accumulation steps and processes. So neither the accumulation split nor the number of devices
    changes the result. Recorded values, and the loss and metrics of evaluation, are averaged in the same way.

    A loss or gradient that is not finite stops the run on all processes. In fp16 it counts as an overflow, and
    GradScaler skips the step. The log counts skipped steps and leaves them out of its averages. A run stops if many
    steps in a row are skipped, and fails at its end if all were.

    Raises ValueError for options that the trainer cannot follow.
    """

    train_dataset: GroupDataset
    eval_dataset: GroupDataset | None

    def __init__(
        self,
        objective: Objective[Any],
        model: PretrainedModule,
        args: GroupConfig,
        train_dataset: GroupDataset,
        eval_dataset: GroupDataset | None = None,
        *,
        processing_class: PreTrainedTokenizerBase,
        callbacks: list[Any] | None = None,
        sampled: SampledAccuracy | None = None,
    ) -> None:
        check_arguments(args, model)
        self.sharding = args.sharding()
        self.sampled = sampled
        if sampled is not None:
            sampled.check(getattr(model.config.get_text_config(), "max_position_embeddings", None))
        self.objective = objective
        super().__init__(
            model=model,
            args=args,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            data_collator=self.collate,
            processing_class=processing_class,
            callbacks=callbacks,
        )
        if self.sharding is not None:
            self.is_distributed_loading_by_transformers = True  # transformers' name for a model that is sharded already
            again = self.sharding.reshard_after_forward
            shard(model, args.device, reshard_after_forward=again, bf16=args.bf16)
        with nullcontext() if self.sharding is None else self.accelerator.autocast():
            objective.begin(model, train_dataset)
        precision.prepare(self, model)
        self.loss_is_scaled_for_ga = True
        self.watch = FiniteWatch(scaled=self.accelerator.scaler is not None)
        self.add_callback(LogWhereItMatters())
        self.add_callback(WarnOfCommonFall())
        self.averages, self._averages_before = Averages(), Averages()
        self._loss_before = torch.zeros((), device=args.device)
        add_reference(self)
        if isinstance(model, PolicyModel):
            model.watches_entropy = True

    def create_accelerator_and_postprocess(self) -> None:
        with hidden_from_accelerate():
            super().create_accelerator_and_postprocess()

    def _move_model_to_device(self, model: nn.Module, device: torch.device) -> None:
        if self.sharding is None:  # else the device gets shares of the weights only
            super()._move_model_to_device(model, device)

    # Batches

    def collate(self, items: list[Item]) -> Any:
        """The batch of a list of items."""
        return with_weights(self.objective.collate(items), items)

    def sampler(self, dataset: GroupDataset, *, training: bool) -> StepSampler:
        """The order of a data set in training or evaluation."""
        process, processes = self.args.process_index, self.args.world_size
        return step_sampler(dataset, self.args, training=training, process=process, processes=processes)

    def get_train_dataloader(self) -> DataLoader:
        return group_loader(
            self.train_dataset, self.sampler(self.train_dataset, training=True), self.args, self.data_collator
        )

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader:
        dataset: Any = self.eval_dataset if eval_dataset is None else eval_dataset
        return group_loader(dataset, self.sampler(dataset, training=False), self.args, self.data_collator)

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> tuple[list, Any]:
        """The micro-batches of a step. If one process cannot read its own, all stop."""
        batches = together(lambda: [batch for _, batch in zip(range(num_batches), epoch_iterator, strict=False)])
        if batches:
            begin_step(self, self.model_wrapped, batches)
        return batches, self._get_num_items_in_batch(batches, device)

    # Losses

    def _get_num_items_in_batch(self, batch_samples: list, device: torch.device) -> Tensor | None:
        if not batch_samples:
            return None
        items = sum(self.count_items(part) for part in chain.from_iterable(batch_samples))
        return self.accelerator.gather(torch.as_tensor(items).to(device)).sum()

    def count_items(self, inputs: ResponseBatch) -> Tensor:
        """What a part of a micro-batch adds to the divisor of the loss."""
        return (self.objective.count_items(inputs) * inputs["row_weight"]).sum()

    def losses(self, model: Any, inputs: ResponseBatch) -> Tensor:
        """The loss of each trajectory `[B]`. Records the objective's other values."""
        losses = self.objective.losses(model, inputs)
        if inputs["row_weight"].any():
            self.record({**losses.recorded, **of_policy(self.bare_model, inputs)})
        return losses.per_trajectory

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Any,
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        counted = inputs["row_weight"] > 0
        losses = self.losses(model, inputs)
        self.watch.see_losses(losses, counted, inputs, self.state.global_step, self.train_dataset)
        items = self.count_items(inputs) if num_items_in_batch is None else num_items_in_batch
        return losses.masked_fill(~counted, 0.0).sum() / items * self.accelerator.num_processes

    def training_step(self, model: nn.Module, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        """Adds the gradients of a micro-batch, part by part."""
        *parts, last = inputs
        loss = torch.zeros((), device=self.args.device)
        for part in parts:
            with self.accelerator.no_sync(model):
                loss += super().training_step(model, part, num_items_in_batch)
        loss += super().training_step(model, last, num_items_in_batch)
        if self.accelerator.sync_gradients:
            self.record(self.objective.end_step(self.state.global_step))
        return loss

    def _defer_fsdp_gradient_reduction(self) -> Any:
        """Divides the gradients of every backward pass. Kept until the end of the step, they would be complete."""
        return nullcontext()

    def _track_num_input_tokens(self, inputs: list[Any]) -> None:
        for part in inputs:
            super()._track_num_input_tokens(part)

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> float | None:
        norm: float | None = full_tensor(super()._get_grad_norm(model, grad_norm))
        finite = norm is None or math.isfinite(norm)
        if self.watch.end_step(self.state.global_step, finite=finite, norm=norm):  # a skipped step is not logged
            self._tr_loss.copy_(self._loss_before)
            self.averages = self._averages_before
        self._loss_before, self._averages_before = self._tr_loss.clone(), self.averages.copy()
        return norm

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """The optimizer. Parameters with their own learning rate are in separate groups."""
        reshard(self.bare_model)  # the optimizer needs each process's shares
        rates = self.objective.learning_rates(self.bare_model)
        if self.optimizer is None and rates:
            trained: Any = self.model if model is None else model
            optimizer_class, options = self.get_optimizer_cls_and_kwargs(self.args)
            decayed = self.get_decay_parameter_names(trained)
            self.optimizer = optimizer_class(
                parameter_groups(trained, rates, decayed, self.args.weight_decay), **options
            )
        return super().create_optimizer(model)

    def train(self, *args: Any, **options: Any) -> Any:
        output = super().train(*args, **options)
        self.watch.end()
        return output

    # The log, and evaluation

    def record(self, values: Recorded) -> None:
        """Adds to the averages that the next line of the log shows."""
        for name, value in values.items():
            self.averages.add(name, value.detach().float())

    def take_means(self) -> dict[str, float]:
        """The averages of recorded values over all processes, which then restart. Called by all processes."""
        averages, self.averages = self.averages, Averages()
        return self.objective.metrics(averages.means())

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            steps, skipped = self.watch.steps, self.watch.skipped
            mean = logs["loss"] * steps / (steps - skipped) if steps > skipped else math.nan
            logs = {**logs, "loss": mean, **({"skipped_steps": skipped} if skipped else {}), **self.take_means()}
            self.watch.begin_line()
            self._averages_before = Averages()
            self._loss_before = torch.zeros_like(self._tr_loss)
        # null: JSON has no NaN
        super().log({name: None if _is_not_finite(value) else value for name, value in logs.items()}, start_time)  # type: ignore[misc]

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Evaluates on the `eval_dataset` that the trainer got.

        Raises:
            TypeError: other rows are given here.
            ValueError: the trainer got none, or `metric_for_best_model` is not measured.
        """
        if eval_dataset is not None and eval_dataset is not self.eval_dataset:
            raise TypeError("evaluate() takes no rows. Make a trainer with them: give it the argument eval_dataset")
        if self.eval_dataset is None:
            raise ValueError("evaluate() needs rows. Make a trainer with them: give it the argument eval_dataset")
        with torch.random.fork_rng():  # so that evaluations do not change the weights
            metrics = super().evaluate(None, ignore_keys, metric_key_prefix)
        name = f"eval_{str(self.args.metric_for_best_model).removeprefix('eval_')}"
        if self.is_in_train and self.args.metric_for_best_model is not None and name not in metrics:
            raise ValueError(
                f"--metric_for_best_model is {self.args.metric_for_best_model}, but evaluations have no {name}. Choose "
                f"one of {', '.join(metrics)}"
            )
        return metrics

    def predict(self, *args: Any, **options: Any) -> NoReturn:
        raise TypeError(
            "a trainer has no predict. After save_model(), `qstep score` and `qstep evaluate` read args.output_dir"
        )

    def evaluation_loop(
        self,
        dataloader: DataLoader,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """The mean loss over a complete data set, the means of recorded values, and the accuracy of samples."""
        output = evaluate_all(self, dataloader, metric_key_prefix)
        if self.sampled is None or dataloader.dataset is not self.eval_dataset:
            return output
        sampled = self.sampled.measure(self, metric_key_prefix)
        return output._replace(metrics={**(output.metrics or {}), **sampled})

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        is_best = super()._determine_best_metric(metrics, trial)
        if self.args.load_best_model_at_end:  # transformers looks for its checkpoint, and loads nothing without one
            self.control.should_save |= is_best
        self.control.should_training_stop |= stopped_early(self.args, self.state)
        return is_best


def _is_not_finite(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)
