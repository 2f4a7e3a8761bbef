"""The folder of a training run: whether it is complete, and the checkpoint from which it resumes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from qstep.data import file_fingerprint
from qstep.objectives.arguments import LENGTH, LENGTH_FREE, length_free
from qstep.runs.progress import say
from qstep.runs.seals import MARKER
from qstep.runs.sidecar import SettingsChanged
from qstep.runs.stage_file import StageFile
from qstep.runs.training_log import TRAINING_LOG, log_line
from qstep.trainers.checkpoints import (
    Checkpoint,
    newest_usable,
    settings_of_marker,
    why_not_resumable,
    why_unusable,
)


@dataclass(frozen=True)
class Run:
    """A run as its first process sees it. The default is what the other processes see.

    settings: those that decide the weights. log: the file that the trainer's log is written to. complete: whether the
    folder holds the finished model. checkpoint: the folder to resume from.
    """

    settings: dict[str, Any] = field(default_factory=dict)
    log: StageFile | None = None
    complete: bool = False
    checkpoint: str | None = None


@contextmanager
def open_run(stage: str, settings: dict[str, Any], config: TrainingArguments) -> Iterator[Run]:
    """Opens the folder `config.output_dir` to write or resume a run, and holds the lock of its log.

    Raises:
        SettingsChanged: the folder was made with other settings.
        ValueError: the checkpoint to resume from is incomplete or has other settings, or a finished model was changed.
        StageBusy: another process trains in this folder.
        WouldWrite: this is a dry run, and nothing was opened.
    """
    output, free = Path(str(config.output_dir)), length_free(config)
    length = {name: settings[name] for name in LENGTH if name in settings}
    settings = _without_length(settings) if free else dict(settings)
    start = None
    if config.resume_from_checkpoint is not None:
        start = Checkpoint.at(Path(config.resume_from_checkpoint))
        settings |= _checked_start(start, settings)
    with _open_log(output, stage, settings | length, may_grow=free) as log:
        if log.complete:
            _refuse_changed_model(output, settings)
            say(f"{output} is already finished")
            yield Run(settings, log, complete=True)
        else:
            yield Run(settings, log, checkpoint=_checkpoint(output, settings, start))


def _open_log(output: Path, stage: str, settings: dict[str, Any], *, may_grow: bool) -> StageFile:
    try:
        return StageFile.open(
            output / TRAINING_LOG, stage=stage, settings=settings, may_grow=LENGTH if may_grow else ()
        )
    except SettingsChanged as error:
        advice = f"Choose another --output_dir, or delete the folder{_how_to_lengthen(output, error)}"
        raise SettingsChanged(error.difference, advice, error.names) from None


def _how_to_lengthen(output: Path, error: SettingsChanged) -> str:
    if not error.names & set(LENGTH):
        return ""
    return (
        "\nA run can be made longer in place only if its learning rate does not depend on its length "
        f"(lr_scheduler_type {', '.join(LENGTH_FREE)}). Otherwise give another --output_dir with "
        f"--resume_from_checkpoint {output}/checkpoint-<step>"
    )


def _refuse_changed_model(output: Path, settings: dict[str, Any]) -> None:
    reason = why_unusable(output, settings)
    if reason is not None:
        raise ValueError(f"{output} is finished, but {reason}. Restore it, or delete the folder to train it again")


def _checkpoint(output: Path, settings: dict[str, Any], start: Checkpoint | None) -> str | None:
    """The newest usable checkpoint of the folder, or the named one if that is of a later step."""
    newest, skipped = newest_usable(output, settings)
    for folder, why in skipped.items():
        say(f"{folder} is skipped: {why}")
    if start is None or (newest is not None and newest.step >= start.step):
        start = newest
    if start is None:
        return None
    say(f"{output} resumes from {start.path}")
    return str(start.path)


def _checked_start(checkpoint: Checkpoint, settings: dict[str, Any]) -> dict[str, Any]:
    """Checks the named checkpoint. Returns what the settings record of it if its run had another length."""
    reason = why_not_resumable(checkpoint.path, settings)
    if reason is None:
        return {}
    made_with = settings_of_marker(checkpoint.path)
    if made_with is None or _without_length(made_with) != _without_length(settings):
        raise ValueError(f"resume_from_checkpoint {checkpoint.path}: {reason}")
    if (damage := why_not_resumable(checkpoint.path, made_with)) is not None:
        raise ValueError(f"resume_from_checkpoint {checkpoint.path}: {damage}")
    say(
        f"Warning: {checkpoint.path} is from a run of another length. After step {checkpoint.step} the learning "
        "rate follows this run's schedule, so the weights will differ from both complete runs"
    )
    return {"resumed_from": {"step": checkpoint.step, "marker": file_fingerprint(checkpoint.path / MARKER)}}


def _without_length(settings: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name not in (*LENGTH, "resumed_from")}


class Log(TrainerCallback):
    """Appends the trainer's log to a stage file. A resumed run does not repeat the line of a step."""

    def __init__(self, file: StageFile) -> None:
        self.file = file

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        logs = kwargs["logs"]
        name = f"{state.global_step}" if "loss" in logs else f"{state.global_step}/eval"
        if state.is_world_process_zero and {"loss", "eval_loss"} & logs.keys() and name not in self.file.done:
            self.file.append([log_line(name, state.global_step, state.max_steps, logs)])
