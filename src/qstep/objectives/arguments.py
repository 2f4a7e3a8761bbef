"""The marks of transformers' TrainingArguments, and the settings that decide the weights of a training."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import MISSING, fields
from typing import Any

from transformers import SchedulerType, TrainingArguments
from transformers.trainer_pt_utils import AcceleratorConfig
from transformers.trainer_utils import HubStrategy
from transformers.training_args import OptimizerNames

from qstep.objectives.packages import check_optimizer
from qstep.runs.options import (
    CHANGES_NOTHING,
    Bounds,
    ChangesNothing,
    Check,
    NotInSettings,
    Output,
    ReadIf,
    Reads,
    Such,
    settings_of,
)
from qstep.runs.shared_options import path_inputs

LENGTH = ("max_steps", "num_train_epochs")
"""The settings that decide the length of a run."""

LENGTH_FREE = ("constant", "constant_with_warmup", "inverse_sqrt")
"""The learning-rate schedules that do not depend on the length of a run."""

FOLLOWS_EVALUATION = ("reduce_lr_on_plateau", "greedy")
"""The learning-rate schedules that depend on evaluations."""

_REPEATEDLY = Such(lambda strategy: strategy != "no", "--{name} steps or epoch")

EVALUATES = ReadIf(eval_strategy=_REPEATEDLY, eval_on_start=True)
"""The condition of what only evaluations during training read."""

EVALUATES_AGAIN = ReadIf(eval_strategy=_REPEATEDLY)
"""The condition of what needs more evaluations than the one before training."""


_WARMS_UP = Such(
    lambda schedule: SchedulerType(schedule).value not in ("constant", *FOLLOWS_EVALUATION),
    "--{name} constant_with_warmup, linear or another that warms up",
)
_PROJECTS = Such(
    lambda optimizer: any(kind in OptimizerNames(optimizer).value for kind in ("galore", "apollo")),
    "--{name} galore_adamw, apollo_adamw or another of their kinds",
)


def stops_early(config: TrainingArguments) -> bool:
    """Whether evaluations may end the training."""
    return getattr(config, "early_stopping_patience", None) is not None


def follows_evaluation(config: TrainingArguments) -> bool:
    """Whether the final weights depend on evaluations.

    They do if the best weights are kept, the learning rate follows the evaluations, or these may end the training.
    """
    follows = SchedulerType(config.lr_scheduler_type).value in FOLLOWS_EVALUATION
    return config.load_best_model_at_end or follows or stops_early(config)


def length_free(config: TrainingArguments) -> bool:
    """Whether the learning rate is independent of the run's length, so that a longer run begins with the same steps."""
    return SchedulerType(config.lr_scheduler_type).value in LENGTH_FREE and not 0 < config.warmup_steps < 1


def training_settings(config: TrainingArguments) -> dict[str, Any]:
    """The options that decide the weights, as JSON.

    Batch size, accumulation and number of processes count only as their product, the items of an optimizer step. Their
    division changes sums by rounding only.
    """
    settings = settings_of(config)
    sizes = [settings.pop(name) for name in ("per_device_train_batch_size", "gradient_accumulation_steps")]
    settings["total_train_batch_size"] = math.prod(sizes) * config.world_size
    return {
        name: value if isinstance(value, int | float | str | bool | None) else str(value)
        for name, value in settings.items()
    }


_DEFAULTS = {field.name: field.default for field in fields(TrainingArguments) if field.default is not MISSING}


def _unused(option: str, value: Any) -> None:
    default = _DEFAULTS.get(option)
    if value != default and (value or default):
        raise ValueError(f"--{option} is {value!r}, but qstep's trainers do not use it: remove it")


def _workers_start(option: str, value: str) -> None:
    if value != "fork":  # which transformers sets on a Mac
        _unused(option, value)


def _without_loaders(option: str, value: AcceleratorConfig) -> None:
    """The data loaders are the trainers' own, so accelerate prepares none."""
    for name in ("split_batches", "dispatch_batches", "even_batches", "use_seedable_sampler", "non_blocking"):
        found = getattr(value, name)
        if found != getattr(AcceleratorConfig(), name):
            raise ValueError(f"--{option}.{name} is {found!r}, but qstep's trainers do not use it: remove it")


def _compiled(option: str, value: Any) -> None:
    if value:
        raise ValueError(
            f"--{option} is not supported: remove it. Each batch has its own shape, for which torch would compile the "
            "model anew. Three steps of a tiny model took nine minutes"
        )


def _batch_order(option: str, value: str) -> None:
    if value not in ("random", "sequential"):
        raise ValueError(
            f"--{option} {value} is not supported: choose random or sequential. Grouping by length would gain nothing, "
            "because batches have no padding and about equal sizes"
        )


def _uploaded_once(option: str, value: HubStrategy | str) -> None:
    if HubStrategy(value) not in (HubStrategy.END, HubStrategy.EVERY_SAVE):  # the second is the default
        raise ValueError(
            f"--{option} {HubStrategy(value).value} is not supported: a folder is uploaded once, when its training is "
            "finished. Remove it"
        )


def _config_file(option: str, value: str) -> Iterator[tuple[str, str]]:
    """The file, if the option names a JSON file of settings."""
    if value.endswith(".json"):
        yield from path_inputs(option, value)


_NOTHING = (
    *("output_dir", "run_name", "project", "report_to", "disable_tqdm", "log_level", "log_level_replica"),
    *("log_on_each_node", "logging_strategy", "logging_steps", "logging_first_step", "logging_nan_inf_filter"),
    *("trackio_space_id", "trackio_bucket_id", "trackio_static_space_id", "include_num_input_tokens_seen"),
    *(
        "push_to_hub",
        "hub_token",
        "hub_private_repo",
        "hub_model_id",
        "hub_strategy",
        "hub_always_push",
        "hub_revision",
    ),
    *("use_cpu", "do_train", "do_eval", "do_predict", "local_rank", "ddp_timeout", "torch_empty_cache_steps"),
    *("dataloader_num_workers", "dataloader_pin_memory", "dataloader_persistent_workers"),
    *("dataloader_prefetch_factor", "dataloader_multiprocessing_context", "resume_from_checkpoint"),
    *(
        "fsdp",
        "fsdp_config",
        "save_on_each_node",
        "save_only_model",
        "enable_jit_checkpoint",
        "restore_callback_states_from_checkpoint",
    ),
    *("skip_memory_metrics", "debug"),
)
"""Options that cannot change the final weights. Access tokens are among them, so they are never written to disk."""

_CADENCE = (
    *("save_strategy", "save_steps", "save_total_limit"),
    *("eval_strategy", "eval_steps", "eval_delay", "eval_on_start", "eval_do_concat_batches"),
    *("eval_use_gather_object", "eval_accumulation_steps", "per_device_eval_batch_size", "prediction_loss_only"),
    *("metric_for_best_model", "greater_is_better"),
)
"""Options that change the weights only if the evaluation decides on them."""

_COUNTS = ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps")
_UNUSED = (
    *("label_smoothing_factor", "neftune_noise_alpha", "auto_find_batch_size", "use_liger_kernel", "label_names"),
    *("do_predict", "prediction_loss_only", "batch_eval_metrics", "include_for_metrics", "eval_accumulation_steps"),
    *("eval_use_gather_object", "bf16_full_eval", "fp16_full_eval", "hub_always_push"),
    *("dataloader_in_order", "length_column_name", "eval_do_concat_batches", "liger_kernel_config"),
    "average_tokens_across_devices",
)
_FILES = ("deepspeed",)

_MARKS: tuple[tuple[Any, tuple[str, ...]], ...] = (
    (CHANGES_NOTHING, _NOTHING),
    (Output("{stage}"), ("output_dir",)),
    (ChangesNothing(unless=follows_evaluation), _CADENCE),
    (NotInSettings(unless=lambda config: config.max_steps > 0), ("max_steps",)),
    (NotInSettings(unless=lambda config: config.max_steps <= 0), ("num_train_epochs",)),
    (Bounds(least=1), _COUNTS),
    (Bounds(least=0, most=2**32 - 1), ("seed",)),
    (Bounds(least=0), ("data_seed",)),
    (Check(_unused), _UNUSED),
    (Check(_compiled), ("torch_compile",)),
    (Check(_batch_order), ("train_sampling_strategy",)),
    (Check(check_optimizer), ("optim",)),
    (Check(_uploaded_once), ("hub_strategy",)),
    (Check(_workers_start), ("dataloader_multiprocessing_context",)),
    (Check(_without_loaders), ("accelerator_config",)),
    (ReadIf(lr_scheduler_type=_WARMS_UP), ("warmup_steps",)),
    (ReadIf(optim=_PROJECTS), ("optim_target_modules",)),
    (Reads(_config_file), _FILES),
)

MARKS: dict[str, tuple[Any, ...]] = {
    name: tuple(mark for mark, names in _MARKS if name in names) for _, names in _MARKS for name in names
}
"""The marks of TrainingArguments' fields, which belong to transformers' classes."""
