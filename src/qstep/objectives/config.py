"""The options that every method has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Annotated, Any, ClassVar

import torch
from transformers import TrainingArguments

from qstep.objectives.arguments import MARKS
from qstep.runs.options import AtLeast1, Bounds, Check, check_options
from qstep.types import OverLong, Truncated

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
"""The values of `report_to`, and the package that each needs."""
_MODULES = {"azure_ml": "azureml", "flyte": "flytekit"}
"""The module of a package, if it differs from the name in `report_to`."""


def _no_mask(option: str, value: Truncated) -> None:
    if value == "mask":
        raise ValueError(
            f"--{option} mask does not work here: this method judges a response as a whole, so it cannot leave out the "
            "end alone. Give drop or keep"
        )


@dataclass
class GroupConfig(TrainingArguments):
    """Options of every trainer. Batch sizes count groups of at most `responses_per_prompt` responses to one prompt.

    Args:
        max_length: greatest length of a prompt with its response, in tokens.
        over_long: `refuse` stops at rows longer than max_length and names them; `drop` leaves them out and counts them.
        truncated: what happens to responses that were cut off (`finish_reason` is `length`) and are not right. `keep`
            takes them as they are graded or labelled; `drop` leaves them out and counts them.
        right_at: the reward from which a response without a label is right, 1 by default. Methods that ask for right
            responses need it if rewards are above 1, or never 0 or 1.
        responses_per_prompt: maximum number of responses in a batch that share one pass over their prompt. Null means
            all responses of the problem.
        logging_steps: optimizer steps between two lines of the log. Losses and metrics are averages since the line
            before.
    """

    MARKS: ClassVar[Mapping[str, tuple[Any, ...]]] = MARKS

    max_length: AtLeast1 = 2048
    over_long: OverLong = "refuse"
    truncated: Annotated[Truncated, Check(_no_mask)] = "keep"
    right_at: Annotated[float | None, Bounds(least=-3e38, most=3e38)] = None
    responses_per_prompt: AtLeast1 | None = 1
    logging_steps: float = 10

    def __post_init__(self) -> None:
        if not torch.accelerator.is_available():  # else accelerate treats several processes as one each
            self.use_cpu = True
        super().__post_init__()
        check_options(self)
        if self.max_steps == 0 or (self.max_steps < 0 and self.num_train_epochs <= 0):
            raise ValueError("the run has no steps. Set --max_steps or --num_train_epochs above 0")
        for name in self.report_to or ():
            _check_reporter(name)


def _check_reporter(name: str) -> None:
    """Raises ValueError if the reporter is unknown, or if its package is not installed."""
    if name == "kubeflow":  # transformers adds it within Kubeflow
        return
    if name not in _REPORTERS:
        raise ValueError(f"--report_to {name} is unknown: choose none, all, or some of {', '.join(_REPORTERS)}")
    modules = ("tensorboard", "tensorboardX") if name == "tensorboard" else (_MODULES.get(name, name),)
    if not any(map(find_spec, modules)):
        raise ValueError(f"--report_to {name} is not installed: pip install {_REPORTERS[name]}")
