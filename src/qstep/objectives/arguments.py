"""What the options of transformers' TrainingArguments say of themselves, and which settings a training follows from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from transformers import SchedulerType, TrainingArguments

from qstep.runs.options import CHANGES_NOTHING, Bounds, ChangesNothing, Check, Reads, settings_of
from qstep.runs.shared_options import path_inputs

LENGTH = ("max_steps", "num_train_epochs")
"""The settings that say how long a run is."""

LENGTH_FREE = ("constant", "constant_with_warmup", "inverse_sqrt")
"""The schedules of the learning rate that do not depend on the length of a run."""

_FOLLOWS_EVALUATION = ("reduce_lr_on_plateau", "greedy")


def follows_evaluation(config: TrainingArguments) -> bool:
    """Whether the final weights depend on what is evaluated, and when: the best are kept, or the learning rate asks."""
    return config.load_best_model_at_end or SchedulerType(config.lr_scheduler_type).value in _FOLLOWS_EVALUATION


def length_free(config: TrainingArguments) -> bool:
    """Whether a longer run begins with the steps of a shorter one: its learning rate does not depend on its end."""
    return SchedulerType(config.lr_scheduler_type).value in LENGTH_FREE and not 0 < config.warmup_steps < 1


def training_settings(config: TrainingArguments) -> dict[str, Any]:
    """The options of training that the weights follow from, as JSON, and the number of processes."""
    idle = "num_train_epochs" if config.max_steps > 0 else "max_steps"
    settings = settings_of(config, idle, num_processes=config.world_size)
    return {
        name: value if isinstance(value, int | float | str | bool | None) else str(value)
        for name, value in settings.items()
    }


def _unused(option: str, value: Any) -> None:
    if value:
        raise ValueError(f"--{option} is {value!r}, and nothing reads it without a trainer of another kind")


def _config_file(option: str, value: str) -> Iterator[tuple[str, str]]:
    """A file of settings that is named instead of them."""
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
    *("save_on_each_node", "save_only_model", "enable_jit_checkpoint", "restore_callback_states_from_checkpoint"),
    *("skip_memory_metrics", "debug"),
)
"""What cannot change the weights that a run ends with. Tokens are among it, and so are never written."""

_CADENCE = (
    *("save_strategy", "save_steps", "save_total_limit"),
    *("eval_strategy", "eval_steps", "eval_delay", "eval_on_start", "eval_do_concat_batches"),
    *("eval_use_gather_object", "eval_accumulation_steps", "per_device_eval_batch_size", "prediction_loss_only"),
    *("metric_for_best_model", "greater_is_better"),
)
"""What changes the weights only where the evaluation decides on them."""

_COUNTS = ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps")
_UNUSED = ("label_smoothing_factor", "neftune_noise_alpha", "auto_find_batch_size")
_FILES = ("deepspeed", "fsdp_config")

_MARKS: tuple[tuple[Any, tuple[str, ...]], ...] = (
    (CHANGES_NOTHING, _NOTHING),
    (ChangesNothing(unless=follows_evaluation), _CADENCE),
    (Bounds(least=1), _COUNTS),
    (Check(_unused), _UNUSED),
    (Reads(_config_file), _FILES),
)

FOREIGN: dict[str, tuple[Any, ...]] = {
    name: tuple(mark for mark, names in _MARKS if name in names) for _, names in _MARKS for name in names
}
"""The marks of TrainingArguments' fields, whose classes are not ours."""
