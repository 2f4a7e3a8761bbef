"""Trainers of a tiny model on the miniature's rows."""

from __future__ import annotations

from pathlib import Path

import torch

from qstep.models import ModelOptions
from qstep.objectives import METHODS
from qstep.tasks import miniature
from qstep.trainers import trainer_class

COMMON = dict(
    use_cpu=True,
    report_to="none",
    save_strategy="no",
    disable_tqdm=True,
    logging_steps=1,
    lr_scheduler_type="linear",
    learning_rate=1e-3,
)


def trainer(kind: str, base: Path, rows: Path, output: Path, eval_file: Path | None = None, callbacks=None, **options):
    """A trainer of the method `kind`; `peft` asks for an adapter."""
    method = METHODS[kind]
    defaults = {} if kind in ("sft", "rs", "dpo") else {"responses_per_prompt": 4}
    defaults |= {"value_learning_rate": 1e-3} if kind in ("dqo", "dro") else {}
    defaults |= {"importance": "none"} if kind in ("dqo", "reinforce") else {}
    adapter = {"use_peft": True, "lora_r": 4} if options.pop("peft", False) else {}
    model_options = ModelOptions(model_name_or_path=str(base), dtype=options.pop("dtype", "float32"), **adapter)
    config = method.config(**{**COMMON, "output_dir": str(output), **defaults, **options})
    return trainer_class(method)(model_options, config, rows, eval_file, miniature.tokenizer(), callbacks or ())


def weights(trainer) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in trainer.bare_model.state_dict().items()}
