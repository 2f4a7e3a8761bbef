"""`qstep train pqm|bce|mse|orm|dqo|dro|rs`: labelled rows in, a checkpoint out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

from torch import nn
from transformers import (
    AutoTokenizer,
    PreTrainedTokenizerBase,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    set_seed,
)
from transformers.trainer_utils import get_last_checkpoint

from qstep.data import StageFile
from qstep.models import ModelOptions, PolicyModel, PolicyWithValue, ScorerModel
from qstep.stages.inputs import finished, hide_loading_bars, model_fingerprint
from qstep.stages.progress import console
from qstep.trainers import (
    DQOConfig,
    DQOTrainer,
    DROTrainer,
    GroupTrainer,
    PolicyConfig,
    RSTrainer,
    ScorerConfig,
    ScorerTrainer,
)
from qstep.trainers.pqm import Objective

SCORERS = get_args(Objective)
"""The objectives a step scorer can be trained with."""

# What cannot change the weights a run ends with.
_IRRELEVANT = {
    "output_dir",
    "run_name",
    "report_to",
    "logging_dir",
    "disable_tqdm",
    "logging_steps",
    "project",
}


@dataclass(kw_only=True)
class TrainInputs(ModelOptions):
    """What a training run starts from.

    Args:
        train_file: the JSONL rows to learn from.
    """

    train_file: Path


def config_class(method: str) -> type[TrainingArguments]:
    """The settings of a training method."""
    if method in SCORERS:
        return ScorerConfig
    return {"dqo": DQOConfig, "dro": DQOConfig, "rs": PolicyConfig}[method]


def train(method: str, inputs: TrainInputs, config: Any) -> Path:
    """Trains, saves model and tokenizer to `config.output_dir`, and returns that folder.

    The folder's `train_log.jsonl` holds every line of the log. A finished folder with unchanged settings is left
    as it is; an unfinished one goes on from its newest checkpoint, where `save_strategy` left any.
    """
    output = Path(config.output_dir)
    changed = {k: v for k, v in asdict(config).items() if k not in _IRRELEVANT}
    settings = {
        "method": method,
        **{
            name: value if isinstance(value, int | float | str | bool | None) else str(value)
            for name, value in changed.items()
        },
        **{k: v for k, v in asdict(inputs).items() if k not in ("model_name_or_path", "train_file")},
        "train_file": finished(inputs.train_file),
        "model": model_fingerprint(inputs.model_name_or_path),
    }
    with StageFile.open(output / "train_log.jsonl", stage=f"train {method}", settings=settings) as log:
        if log.complete:
            return output
        set_seed(config.seed)
        hide_loading_bars()
        tokenizer = AutoTokenizer.from_pretrained(inputs.model_name_or_path, **inputs.load_arguments())
        trainer = _trainer(method, inputs, config, tokenizer, [_Log(log)])
        if trainer.train_dataset.left_out:
            console.print(f"{inputs.train_file}: left out {dict(trainer.train_dataset.left_out)}")
        trainer.train(resume_from_checkpoint=get_last_checkpoint(str(output)))
        trainer.save_model()
        log.finish({"rows": len(trainer.train_dataset.offsets), "left_out": dict(trainer.train_dataset.left_out)})
    return output


def _trainer(
    method: str, inputs: TrainInputs, config: Any, tokenizer: PreTrainedTokenizerBase, callbacks: list[Any]
) -> GroupTrainer:
    def with_value(options: ModelOptions) -> PolicyWithValue:
        return PolicyWithValue.new_with_value(options, config.value)

    build: dict[str, tuple[Callable[[ModelOptions], nn.Module], Callable[..., GroupTrainer]]] = {
        **{name: (ScorerModel.new, ScorerTrainer) for name in SCORERS},
        "dqo": (with_value, DQOTrainer),
        "dro": (with_value, DROTrainer),
        "rs": (PolicyModel.new, RSTrainer),
    }
    load, trainer = build[method]
    return trainer(load(inputs), config, inputs.train_file, tokenizer, callbacks)


class _Log(TrainerCallback):
    """Appends what the trainer logs to a stage file; a resumed run does not repeat a step's line."""

    def __init__(self, file: StageFile) -> None:
        self.file = file

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        logs, name = kwargs["logs"], str(state.global_step)
        if state.is_world_process_zero and "loss" in logs and name not in self.file.done:
            self.file.append([{"id": name, "step": state.global_step, "max_steps": state.max_steps, **logs}])
