"""`qstep train METHOD`: reads labelled rows, and trains a model."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar

from transformers import PrinterCallback, ProgressCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from qstep.data import check_model_name
from qstep.models import ModelOptions
from qstep.models.inference import hide_loading_bars
from qstep.objectives import METHODS
from qstep.objectives.arguments import EVALUATES, follows_evaluation, training_settings
from qstep.objectives.config import GroupConfig
from qstep.objectives.dataset import GroupDataset
from qstep.objectives.source import RowsFile
from qstep.processes import gathered, together
from qstep.runs.fingerprints import model_files, model_fingerprint
from qstep.runs.fsdp_settings import check_processes
from qstep.runs.options import NOT_IN_SETTINGS, NotInSettings, settings_of
from qstep.runs.progress import console, reasons_text, say
from qstep.runs.shared_options import RowsInput
from qstep.runs.sidecar import begins
from qstep.runs.stage_file import finished
from qstep.runs.training_log import TRAINING_LOG
from qstep.tasks.options import ColumnOptions
from qstep.trainers import trainer_class
from qstep.trainers.arguments import check_evaluation
from qstep.trainers.checkpoints import seal
from qstep.trainers.early_stopping import best_before_training, stopped_early
from qstep.trainers.resuming import Log, Run, open_run
from qstep.types import Truncated


@dataclass(kw_only=True)
class TrainInputs(ModelOptions, ColumnOptions):
    """The model and the rows that a training run starts from.

    Args:
        train_file: the file of rows to learn from. Several files are separated by commas, or given as a list in YAML. A
            pattern such as `data/*.parquet`, a folder of files and a Hub id are read too.
        eval_file: rows to evaluate on during training, at the times that eval_strategy sets. It needs
            eval_strategy steps or epoch, or eval_on_start. Give load_best_model_at_end and metric_for_best_model to
            keep the best checkpoint.
    """

    MARKS: ClassVar[Mapping[str, tuple[NotInSettings, ...]]] = dict.fromkeys(
        ("model_name_or_path", "model_revision"), (NOT_IN_SETTINGS,)
    )

    train_file: RowsInput
    eval_file: Annotated[RowsInput | None, NOT_IN_SETTINGS, EVALUATES] = None


def train(method: str, inputs: TrainInputs, config: GroupConfig) -> Path:
    """Trains, saves model, tokenizer and model card to `config.output_dir`, and returns that folder.

    The folder's `train_log.jsonl` holds the log. A finished folder with unchanged settings is left as it is. An
    unfinished one resumes from its newest complete checkpoint with the same settings, if `save_strategy` saved any. It
    ends with the weights of an uninterrupted run. A run whose learning rate does not depend on its length can be made
    longer in place. `resume_from_checkpoint` names another checkpoint to resume from, also of a run of another length.

    `push_to_hub` uploads the folder once it is finished. A finished folder is uploaded too.

    With several processes, only the first opens and writes files, and the others follow its decision.

    Raises:
        SettingsChanged: the folder was made with other settings.
        ValueError: the checkpoint to resume from is incomplete or has other settings, or a finished model was changed.
            Or the folder has a model or a README.md that no training wrote there.
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
    if config.hub_model_id is not None and not config.push_to_hub:
        raise ValueError("--hub_model_id has no effect without --push_to_hub true: give that too, or remove it")
    check_processes(config)
    check_evaluation(config, evaluated)
    learned = replace(learned, columns=inputs.columns)
    evaluated = None if evaluated is None else replace(evaluated, columns=inputs.columns)
    with ExitStack() as stack:

        def open_first() -> Run:
            if config.process_index:
                return Run()
            settings = {"method": method, **_settings(inputs, config)}
            _refuse_foreign(output)
            return stack.enter_context(open_run(f"train {method}", settings, config))

        run = together(open_first)
        complete, checkpoint = gathered((run.complete, run.checkpoint))[0]
        if complete:
            if run.log and config.push_to_hub:
                _upload(output, config)
            return output
        hide_loading_bars()
        trainer = trainer_class(METHODS[method])(
            inputs,
            config,
            learned,
            evaluated,
            callbacks=[Log(run.log)] if run.log else [],
        )
        if console.quiet:  # train_log.jsonl has these lines
            trainer.remove_callback(ProgressCallback)
            trainer.remove_callback(PrinterCallback)
        trainer.settings = run.settings
        summary: dict[str, Any] = {"base_model": _base_model(inputs, output)}
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
                say(f"{dataset.source}: left out {reasons_text(left_out)}")
            if dataset.truncated:
                summary[f"{prefix}truncated"] = dataset.truncated
                if run.log:
                    say(_of_truncated(dataset, config.truncated))
        trainer.write_card = partial(write_card, output, run.settings, summary)
        trainer.train(resume_from_checkpoint=checkpoint)
        if trainer.state.global_step > trainer.state.max_steps:
            raise ValueError(
                f"{checkpoint} is after the last step of this run, {trainer.state.max_steps}. Resume from an earlier "
                "checkpoint, or make the run longer"
            )
        trainer.save_model(_internal_call=True)  # which uploads nothing yet
        if config.load_best_model_at_end and trainer.state.best_model_checkpoint is not None:
            summary["best_step"] = trainer.state.best_global_step
        if run.log:
            trainer.create_model_card()
            seal(output, run.settings, model_files(output))
            if stopped_early(config, trainer.state):
                summary["stopped_early_at"] = trainer.state.global_step
                say(_of_stopping(trainer.state.global_step, config))
            if "best_step" in summary and (before := best_before_training(config, trainer.state)) is not None:
                say(
                    f"Warning: no evaluation was better than the one before training ({config.metric_for_best_model} "
                    f"{before:.4g}). The weights are those of step {summary['best_step']}, the best of the others"
                )
            if trainer.sampled is not None:
                say(f"Responses to some validation problems at each evaluation: {trainer.sampled.file}")
            run.log.finish(summary)
            if config.push_to_hub:
                _upload(output, config)
    return output


def _upload(output: Path, config: GroupConfig) -> None:
    """Uploads a finished folder to the Hub, without its checkpoints. Unchanged files are not sent again."""
    from huggingface_hub import HfApi

    hub = HfApi()
    repository = hub.create_repo(
        config.hub_model_id or output.absolute().name, private=config.hub_private_repo, exist_ok=True
    )
    hub.upload_folder(
        repo_id=repository.repo_id,
        folder_path=output,
        commit_message="End of training",
        ignore_patterns=["_*", f"{PREFIX_CHECKPOINT_DIR}-*"],
        revision=config.hub_revision,
    )


def _refuse_foreign(output: Path) -> None:
    """Raises ValueError if a training that begins would replace another model or somebody's README, or mix with it."""
    from qstep.report.card import MARKER

    if not begins(output / TRAINING_LOG):
        return
    foreign = model_files(output)
    card = output / "README.md"
    if card.is_file() and MARKER.encode() not in card.read_bytes():
        foreign.append(card)
    if foreign:
        raise ValueError(
            f"--output_dir {output} has {foreign[0].name}, and no log of a training that wrote it: choose another "
            "folder, or delete this one"
        )


def _of_truncated(dataset: GroupDataset, how: Truncated) -> str:
    """A sentence on the responses that were cut off and are not right."""
    what = "their ends are not judged" if how == "mask" else "they are trained on as they are labelled or graded"
    found = f"{dataset.truncated} of {len(dataset.rows)} responses were cut off and are not right"
    return f"{dataset.source}: {found}; {what} (--truncated {how})"


def _of_stopping(step: int, config: GroupConfig) -> str:
    """A sentence on a training that its evaluations ended."""
    return (
        f"Training ended at step {step}: {config.metric_for_best_model} was not better in the last "
        f"{config.early_stopping_patience} evaluations (--early_stopping_patience)"
    )


def _base_model(inputs: TrainInputs, output: Path) -> dict[str, Any]:
    """The base model as the card names it: a Hub id, or the name of a local folder.

    A folder's path is relative to the output, for commands that compare the policy with it.
    """
    folder = Path(inputs.model_name_or_path)
    if folder.is_dir():
        return {"name": folder.resolve().name, "on_hub": False, "path": os.path.relpath(folder, output)}
    return {"name": inputs.model_name_or_path, "on_hub": True}


def _settings(inputs: TrainInputs, config: GroupConfig) -> dict[str, Any]:
    """The settings that decide the weights. Raises ValueError if an input is unfinished or is the output."""
    output = Path(str(config.output_dir))
    check_model_name(inputs.model_name_or_path)
    if os.path.realpath(output) == os.path.realpath(inputs.model_name_or_path):
        raise ValueError(f"--output_dir {output} is the model to start from: give another folder")
    evaluated = None if inputs.eval_file is None else finished(inputs.eval_file)
    return {
        **training_settings(config),
        **settings_of(inputs),
        "train_file": finished(inputs.train_file),
        "model": model_fingerprint(inputs.model_name_or_path, inputs.model_revision),
        **({"eval_file": evaluated} if follows_evaluation(config) else {}),
    }
