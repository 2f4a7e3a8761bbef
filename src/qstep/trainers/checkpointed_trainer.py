"""What a checkpoint holds, and how a training continues from one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn
from transformers import PreTrainedTokenizerBase, Trainer, TrainerState

from qstep.models.sharding import full_state
from qstep.objectives.config import GroupConfig
from qstep.objectives.objective import Objective
from qstep.processes import together
from qstep.runs.fsdp_settings import Sharding
from qstep.trainers.checkpoints import sealed, settings_of_marker, why_unusable, writing
from qstep.trainers.early_stopping import stopped_early
from qstep.trainers.sharding import load_optimizer, save_optimizer


class CheckpointedTrainer(Trainer):
    """transformers' Trainer with checkpoints that are complete, sealed, and independent of the number of processes.

    settings: the options that decide the weights, by name. Each checkpoint's marker holds them.
    write_card: writes the model card in the folder of the saved model. If None, transformers writes its draft.
    resumed_from: the checkpoint that this training resumed from.
    """

    args: GroupConfig
    objective: Objective[Any]
    sharding: Sharding | None
    settings: Mapping[str, Any] = {}
    write_card: Callable[[], object] | None = None
    resumed_from: Path | None = None

    @property
    def bare_model(self) -> Any:
        """The model without the wrappers of distributed training."""
        return self.accelerator.unwrap_model(self.model)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        if state := self.objective.state():
            states: Any = self.state.stateful_callbacks  # trainer_state.json in a checkpoint holds these
            states["objective"] = {"attributes": state}
        with sealed(self, self.settings):
            super()._save_checkpoint(model, trial)

    def _init_training_state(self, max_steps: int, *rest: Any) -> tuple[int, int]:
        begun = super()._init_training_state(max_steps, *rest)
        self.state.compute_steps(self.args, max_steps)  # the options decide how often to log and save
        states: Any = self.state.stateful_callbacks
        self.objective.restore(states["objective"]["attributes"] if "objective" in states else {})
        return begun

    def _run_epoch(self, *args: Any, **options: Any) -> None:
        """Takes no step if the resumed checkpoint has taken the last one already."""
        if self.state.global_step >= self.state.max_steps or stopped_early(self.args, self.state):
            self.control.should_training_stop = True
        else:
            super()._run_epoch(*args, **options)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if self.sharding is None or self.optimizer is None or self.lr_scheduler is None:
            super()._save_optimizer_and_scheduler(output_dir)
        else:
            save_optimizer(self.optimizer, self.lr_scheduler, Path(output_dir))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None or self.sharding is None or self.optimizer is None or self.lr_scheduler is None:
            super()._load_optimizer_and_scheduler(checkpoint)
        else:
            load_optimizer(self.optimizer, self.lr_scheduler, Path(checkpoint))

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """Writes model and tokenizer. The pickled arguments are not written, because they may hold an access token."""
        if self.sharding is not None:  # all processes come here
            state_dict = full_state(self.bare_model.state_dict(keep_vars=True))
        if not self.args.should_save:
            return
        folder = Path(output_dir or str(self.args.output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        assert isinstance(self.processing_class, PreTrainedTokenizerBase)
        with writing(folder):
            self.bare_model.save(folder, state_dict)
            self.processing_class.save_pretrained(folder)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Uploads nothing. The folder is not finished, and transformers would write its pickled arguments there."""

    def create_model_card(self, *args: Any, **options: Any) -> None:
        if self.write_card is None:
            super().create_model_card(*args, **options)
        elif self.is_world_process_zero():
            self.write_card()

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        self.resumed_from = Path(resume_from_checkpoint)
        self.bare_model.restore(self.resumed_from)

    def _load_callback_state(self) -> None:
        """Finds the best checkpoint next to the resumed one, or in the folder that this run was started from.

        The recorded path is relative to where the run began.
        """
        super()._load_callback_state()
        if self.resumed_from is None:
            return
        recorded = TrainerState.load_from_json(str(self.resumed_from / "trainer_state.json")).best_model_checkpoint
        if recorded is not None:
            started = self.args.resume_from_checkpoint
            folders = [self.resumed_from.parent, *([] if started is None else [Path(started).parent])]
            best = next((found for folder in folders if (found := folder / Path(recorded).name).is_dir()), None)
            if best is None:
                raise ValueError(
                    f"{self.resumed_from} names {recorded} as the best checkpoint, which is not there. Restore it, or "
                    "resume from another checkpoint"
                )
            self.state.best_model_checkpoint = str(best)

    def _load_best_model(self) -> None:
        best = Path(str(self.state.best_model_checkpoint))

        def check() -> None:
            if not self.args.should_save:
                return
            # The run that this one was started from may have another length. It was compared when this one began.
            is_own = best.parent.resolve() == Path(str(self.args.output_dir)).resolve()
            settings = self.settings if is_own else settings_of_marker(best) or {}
            if (reason := why_unusable(best, settings)) is not None:
                raise ValueError(f"the best checkpoint, {best}, cannot be loaded: {reason}")

        together(check)
        self.bare_model.restore(best)
