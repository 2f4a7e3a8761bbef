"""`qstep train METHOD`: reads labelled rows, and trains a model."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
from transformers import (
    PrinterCallback,
    ProgressCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from qstep.data import check_model_name, file_fingerprint
from qstep.models import ModelOptions
from qstep.models.inference import hide_loading_bars
from qstep.objectives import METHODS
from qstep.objectives.arguments import LENGTH, LENGTH_FREE, follows_evaluation, length_free, training_settings
from qstep.objectives.config import GroupConfig
from qstep.objectives.dataset import GroupDataset
from qstep.objectives.source import RowsFile
from qstep.processes import gathered, together
from qstep.runs.fingerprints import model_files, model_fingerprint
from qstep.runs.options import NOT_IN_SETTINGS, NotInSettings, settings_of
from qstep.runs.progress import console, reasons_text
from qstep.runs.seals import MARKER
from qstep.runs.stage_file import SettingsChanged, StageFile, finished
from qstep.trainers import trainer_class
from qstep.trainers.arguments import check_evaluation
from qstep.trainers.checkpoints import (
    Checkpoint,
    newest_usable,
    seal,
    settings_of_marker,
    why_not_resumable,
    why_unusable,
)


@dataclass(kw_only=True)
class TrainInputs(ModelOptions):
    """The model and the rows that a training run starts from.

    Args:
        train_file: the JSONL rows to learn from.
        eval_file: JSONL rows to evaluate on during training, at the times that eval_strategy sets. Give
            load_best_model_at_end and metric_for_best_model to keep the best checkpoint.
    """

    MARKS: ClassVar[Mapping[str, tuple[NotInSettings, ...]]] = dict.fromkeys(
        ("model_name_or_path", "model_revision"), (NOT_IN_SETTINGS,)
    )

    train_file: Path
    eval_file: Annotated[Path | None, NOT_IN_SETTINGS] = None


def train(method: str, inputs: TrainInputs, config: GroupConfig) -> Path:
    """Trains, saves model, tokenizer and model card to `config.output_dir`, and returns that folder.

    The folder's `train_log.jsonl` holds the log. A finished folder with unchanged settings is left as it is. An
    unfinished one resumes from its newest complete checkpoint with the same settings, if `save_strategy` saved any. It
    ends with the weights of an uninterrupted run. A run whose learning rate does not depend on its length can be made
    longer in place. `resume_from_checkpoint` names another checkpoint to resume from, also of a run of another length.

    With several processes, only the first opens and writes files, and the others follow its decision.

    Raises:
        SettingsChanged: the folder was made with other settings.
        ValueError: the checkpoint to resume from is incomplete or has other settings, or a finished model was changed.
    """
    evaluated = None if inputs.eval_file is None else RowsFile(inputs.eval_file)
    return train_on(method, inputs, config, RowsFile(inputs.train_file), evaluated)


def train_on(
    method: str, inputs: TrainInputs, config: GroupConfig, learned: RowsFile, evaluated: RowsFile | None
) -> Path:
    """What `train` does, on files that may hold rows in memory. `inputs` has their paths."""
    from qstep.report.card import write_card

    output = Path(str(config.output_dir))
    if config.hub_token is not None:  # huggingface_hub reads it there, and no output contains it
        os.environ["HF_TOKEN"], config.hub_token = config.hub_token, None
    check_evaluation(config, evaluated)
    with ExitStack() as stack:
        run = _Run(method, inputs, config, stack)
        first = config.process_index == 0
        complete, checkpoint = gathered(together(lambda: run.open() if first else (False, None)))[0]
        if complete:
            return output
        hide_loading_bars()
        trainer = trainer_class(METHODS[method])(
            inputs,
            config,
            learned,
            evaluated,
            callbacks=[_Log(run.log)] if run.log else [],
        )
        if console.quiet:  # train_log.jsonl has these lines
            trainer.remove_callback(ProgressCallback)
            trainer.remove_callback(PrinterCallback)
        trainer.settings = run.settings
        summary: dict[str, Any] = {"base_model": _base_model(inputs)}
        for prefix, dataset in (("", trainer.train_dataset), ("eval_", trainer.eval_dataset)):
            if dataset is None:
                continue
            left_out = dict(dataset.left_out)
            summary |= {
                f"{prefix}file": dataset.source.name,
                f"{prefix}rows": len(dataset.rows),
                f"{prefix}left_out": left_out,
            }
            if left_out and run.log:
                console.print(f"{dataset.source}: left out {reasons_text(left_out)}")
        if trainer.eval_dataset is not None:
            _check_shared(trainer.train_dataset, trainer.eval_dataset, decides=follows_evaluation(config))
        trainer.write_card = partial(write_card, output, run.settings, summary)
        trainer.train(resume_from_checkpoint=checkpoint)
        if trainer.state.global_step > trainer.state.max_steps:
            raise ValueError(
                f"{checkpoint} is after the last step of this run, {trainer.state.max_steps}. Resume from an earlier "
                "checkpoint, or make the run longer"
            )
        trainer.save_model()
        if run.log:
            trainer.create_model_card()
            seal(output, run.settings, model_files(output))
            run.log.finish(summary)
    return output


def _check_shared(train: GroupDataset, evaluated: GroupDataset, *, decides: bool) -> None:
    """Warns of problems in both files. Raises ValueError if the evaluation decides on the weights."""
    trained = train.index.table["prompt"][train.rows]
    shared = np.intersect1d(trained, evaluated.index.table["prompt"][evaluated.rows])
    if not len(shared):
        return
    place = train.source.line(int(train.rows[np.isin(trained, shared)].min()))
    overlap = f"{train.source} and {evaluated.source} share {len(shared)} problems (one is on {place} of the first)"
    if decides:
        raise ValueError(
            f"{overlap}, and the evaluation decides on the weights (load_best_model_at_end, lr_scheduler_type). It "
            "would prefer weights that memorise. Drop these rows from one of the files; `qstep audit` counts them"
        )
    console.print(f"Warning: {overlap}. The evaluation does not measure generalisation")


def _base_model(inputs: TrainInputs) -> dict[str, Any]:
    """The base model as the card names it: a Hub id, or the name of a local folder."""
    folder = Path(inputs.model_name_or_path)
    if folder.is_dir():
        return {"name": folder.resolve().name, "on_hub": False}
    return {"name": inputs.model_name_or_path, "on_hub": True}


class _Run:
    """The first process's view of a run: its settings, its log, and the checkpoint to resume from."""

    def __init__(self, method: str, inputs: TrainInputs, config: GroupConfig, stack: ExitStack) -> None:
        self.method, self.inputs, self.config, self.stack = method, inputs, config, stack
        self.settings: dict[str, Any] = {}
        self.log: StageFile | None = None

    def open(self) -> tuple[bool, str | None]:
        """Whether the run is complete, and the checkpoint to resume from."""
        output = Path(str(self.config.output_dir))
        check_model_name(self.inputs.model_name_or_path)
        if os.path.realpath(output) == os.path.realpath(self.inputs.model_name_or_path):
            raise ValueError(f"--output_dir {output} is the model to start from: give another folder")
        settings = {
            "method": self.method,
            **training_settings(self.config),
            **settings_of(self.inputs),
            "train_file": finished(self.inputs.train_file),
            "model": model_fingerprint(self.inputs.model_name_or_path, self.inputs.model_revision),
        }
        evaluated = None if self.inputs.eval_file is None else finished(self.inputs.eval_file)
        if follows_evaluation(self.config):
            settings["eval_file"] = evaluated
        length = {name: settings[name] for name in LENGTH if name in settings}
        self.settings = _without_length(settings) if length_free(self.config) else settings
        asked = self.config.resume_from_checkpoint
        start = self._start(Checkpoint.at(Path(asked))) if asked is not None else None
        try:
            log = StageFile.open(
                output / "train_log.jsonl",
                stage=f"train {self.method}",
                settings=self.settings | length,
                may_grow=LENGTH if length_free(self.config) else (),
            )
        except SettingsChanged as error:
            raise SettingsChanged(f"{error}{_how_to_lengthen(output, error)}", error.names) from None
        self.log = self.stack.enter_context(log)
        if log.complete:
            reason = why_unusable(output, self.settings)
            if reason is not None:
                raise ValueError(
                    f"{output} is finished, but {reason}. Restore it, or delete train_log.jsonl and "
                    "train_log.meta.json to train it again"
                )
            console.print(f"{output} is already finished")
            return True, None
        newest, skipped = newest_usable(output, self.settings)
        for folder, why in skipped.items():
            console.print(f"{folder} is skipped: {why}")
        if start is None or (newest is not None and newest.step >= start.step):
            start = newest
        if start is not None:
            console.print(f"{output} resumes from {start.path}")
        return False, None if start is None else str(start.path)

    def _start(self, checkpoint: Checkpoint) -> Checkpoint:
        """Checks the named checkpoint. If its run had another length, the settings record it."""
        reason = why_not_resumable(checkpoint.path, self.settings)
        if reason is None:
            return checkpoint
        made_with = settings_of_marker(checkpoint.path)
        if made_with is None or _without_length(made_with) != _without_length(self.settings):
            raise ValueError(f"resume_from_checkpoint {checkpoint.path}: {reason}")
        if (damage := why_not_resumable(checkpoint.path, made_with)) is not None:
            raise ValueError(f"resume_from_checkpoint {checkpoint.path}: {damage}")
        console.print(
            f"Warning: {checkpoint.path} is from a run of another length. After step {checkpoint.step} the learning "
            "rate follows this run's schedule, so the weights will differ from both complete runs"
        )
        self.settings["resumed_from"] = {"step": checkpoint.step, "marker": file_fingerprint(checkpoint.path / MARKER)}
        return checkpoint


def _without_length(settings: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name not in (*LENGTH, "resumed_from")}


def _how_to_lengthen(output: Path, error: SettingsChanged) -> str:
    if not error.names & set(LENGTH):
        return ""
    return (
        "\nA run can be made longer in place only if its learning rate does not depend on its length "
        f"(lr_scheduler_type {', '.join(LENGTH_FREE)}). Otherwise give another --output_dir with "
        f"--resume_from_checkpoint {output}/checkpoint-<step>"
    )


class _Log(TrainerCallback):
    """Appends the trainer's log to a stage file. A resumed run does not repeat the line of a step."""

    def __init__(self, file: StageFile) -> None:
        self.file = file

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        logs = kwargs["logs"]
        name = f"{state.global_step}" if "loss" in logs else f"{state.global_step}/eval"
        if state.is_world_process_zero and {"loss", "eval_loss"} & logs.keys() and name not in self.file.done:
            self.file.append([{"id": name, "step": state.global_step, "max_steps": state.max_steps, **logs}])
