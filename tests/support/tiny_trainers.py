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


VARIANTS = {
    "dro_group": ("dro", {"value": "group"}),
    "dqo_alternating": ("dqo", {"updates": "alternating", "normalize": "token"}),
}
"""Settings of a method that take another way through the trainer, by the name that tests give them."""


def variant(kind: str) -> tuple[str, dict[str, str]]:
    """The method of a kind, and the options that make the kind."""
    return VARIANTS.get(kind, (kind, {}))


def trainer(kind: str, base: Path, rows: Path, output: Path, eval_file: Path | None = None, callbacks=None, **options):
    """A trainer of the method or variant `kind`; `peft` asks for an adapter."""
    name, defaults = variant(kind)
    method = METHODS[name]
    defaults = defaults | ({} if name in ("sft", "rs", "dpo") else {"responses_per_prompt": 4})
    defaults |= {"value_learning_rate": 1e-3} if name in ("dqo", "dro") and kind != "dro_group" else {}
    defaults |= {"importance": "none"} if name in ("dqo", "reinforce") else {}
    adapter = {"use_peft": True, "lora_r": 4} if options.pop("peft", False) else {}
    model_options = ModelOptions(model_name_or_path=str(base), dtype=options.pop("dtype", "float32"), **adapter)
    config = method.config(**{**COMMON, "output_dir": str(output), **defaults, **options})
    return trainer_class(method)(model_options, config, rows, eval_file, miniature.tokenizer(), callbacks or ())


def weights(trainer) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in trainer.bare_model.state_dict().items()}
