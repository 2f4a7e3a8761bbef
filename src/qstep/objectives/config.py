"""The options that every method has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Annotated, Any, ClassVar

import torch
from transformers import TrainingArguments

from qstep.objectives.arguments import FOREIGN
from qstep.runs.options import CHANGES_NOTHING, Bounds, check_options
from qstep.types import OverLong

_REPORTERS = {
    "azure_ml": "azureml-core",
    "clearml": "clearml",
    "codecarbon": "codecarbon",
    "comet_ml": "comet-ml",
    "dagshub": "dagshub",
    "dvclive": "dvclive",
    "flyte": "flytekit",
    "mlflow": "mlflow",
    "neptune": "neptune",
    "swanlab": "swanlab",
    "tensorboard": "tensorboard",
    "trackio": "trackio",
    "wandb": "wandb",
}
"""What `report_to` may name, and the package to install for it."""
_MODULES = {"azure_ml": "azureml", "flyte": "flytekit"}
"""The module of a package, where it is not called as `report_to` names it."""


@dataclass
class GroupConfig(TrainingArguments):
    """What every trainer is told. Batches count prompts: each brings `responses_per_prompt` responses.

    Args:
        max_length: longest prompt and response together, in tokens.
        over_long: rows longer than that are refused with their number, or dropped and counted.
        responses_per_prompt: responses of one problem that share one pass over its prompt in a batch; null for all.
        logging_steps: optimizer steps between two lines of the log, of which each is an average.
    """

    FOREIGN: ClassVar[Mapping[str, tuple[Any, ...]]] = FOREIGN

    max_length: Annotated[int, Bounds(least=1)] = 2048
    over_long: OverLong = "refuse"
    responses_per_prompt: Annotated[int | None, Bounds(least=1)] = 1
    logging_steps: Annotated[float, CHANGES_NOTHING] = 10

    def __post_init__(self) -> None:
        if not torch.accelerator.is_available():  # else accelerate takes several processes for one each
            self.use_cpu = True
        super().__post_init__()
        check_options(self)
        if self.max_steps == 0 or (self.max_steps < 0 and self.num_train_epochs <= 0):
            raise ValueError("no step is asked for: give max_steps or num_train_epochs above 0")
        for name in self.report_to or ():
            _check_reporter(name)


def _check_reporter(name: str) -> None:
    """Raises ValueError for a place to report to that is unknown, or whose package is not installed."""
    if name == "kubeflow":  # transformers adds it by itself within Kubeflow
        return
    if name not in _REPORTERS:
        raise ValueError(f"--report_to is {name!r}; it must be none, all, or some of {', '.join(_REPORTERS)}")
    modules = ("tensorboard", "tensorboardX") if name == "tensorboard" else (_MODULES.get(name, name),)
    if not any(map(find_spec, modules)):
        raise ValueError(f"--report_to {name} needs a package: pip install {_REPORTERS[name]}")
