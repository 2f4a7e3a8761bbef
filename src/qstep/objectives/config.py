"""The options that every method has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from transformers import TrainingArguments

from qstep.objectives.arguments import MARKS
from qstep.objectives.packages import check_deepspeed, check_reporter
from qstep.runs.options import AtLeast1, Check, check_options
from qstep.types import OverLong, Truncated


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
        responses_per_prompt: maximum number of responses in a batch that share one pass over their prompt. Null means
            all responses of the problem.
        logging_steps: optimizer steps between two lines of the log. Losses and metrics are averages since the line
            before.
    """

    MARKS: ClassVar[Mapping[str, tuple[Any, ...]]] = MARKS

    max_length: AtLeast1 = 2048
    over_long: OverLong = "refuse"
    truncated: Annotated[Truncated, Check(_no_mask)] = "keep"
    responses_per_prompt: AtLeast1 | None = 1
    logging_steps: float = 10

    def __post_init__(self) -> None:
        if not torch.accelerator.is_available():  # else accelerate treats several processes as one each
            self.use_cpu = True
        check_deepspeed(self)
        super().__post_init__()
        check_options(self)
        if self.max_steps == 0 or (self.max_steps < 0 and self.num_train_epochs <= 0):
            raise ValueError("the run has no steps. Set --max_steps or --num_train_epochs above 0")
        for name in self.report_to or ():
            check_reporter(name)
