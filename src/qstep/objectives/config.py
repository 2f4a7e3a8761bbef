"""The options that every method has."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from transformers import SchedulerType, TrainingArguments

from qstep.generation.engine import Temperature
from qstep.objectives.arguments import (
    EVALUATES,
    EVALUATES_AGAIN,
    FOLLOWS_EVALUATION,
    MARKS,
    follows_evaluation,
    stops_early,
)
from qstep.objectives.packages import check_deepspeed, check_deepspeed_parts, check_reporter
from qstep.runs.fsdp_settings import Sharding
from qstep.runs.options import (
    CHANGES_NOTHING,
    GIVEN,
    AtLeast1,
    Bounds,
    ChangesNothing,
    Check,
    Options,
    ReadIf,
    check_options,
)
from qstep.runs.progress import say
from qstep.runs.shared_options import RightAt
from qstep.runs.zero3 import takes_zero3
from qstep.tasks.options import GradingOptions
from qstep.types import OverLong, Truncated

_SAMPLES = ReadIf(eval_samples=GIVEN)
_LESS_IS_BETTER = (
    "loss",
    "kl",
    "logps/rejected",
    "rewards/rejected",
    "q/wrong",
    "sampled/cut_off",
    "sampled/ungradable",
)
"""A metric whose name begins so is best where it is smallest."""
_ONLY_MEASURES = ChangesNothing(unless=follows_evaluation)


def _no_mask(option: str, value: Truncated) -> None:
    if value == "mask":
        raise ValueError(
            f"--{option} mask does not work here: this method judges a response as a whole, so it cannot leave out the "
            "end alone. Give drop or keep"
        )


@dataclass(kw_only=True)
class EvaluationOptions(Options):
    """What evaluations during training decide.

    Args:
        early_stopping_patience: training ends after this many evaluations in a row without a better
            metric_for_best_model. Give load_best_model_at_end too, to end with the best weights.
    """

    GROUP = "evaluation options"

    early_stopping_patience: Annotated[AtLeast1 | None, ChangesNothing(unless=stops_early), EVALUATES_AGAIN] = None


@dataclass(kw_only=True)
class MemoryOptions(TrainingArguments, Options):
    """What a device holds at a time.

    Args:
        fsdp: divides weights, gradients and optimizer states among the processes (FSDP2).
        max_tokens_per_batch: most tokens that are computed at a time, estimated by a sample of rows. Larger batches are
            computed in parts, with the same result. A longer group is a part by itself.
    """

    GROUP = "model options"

    fsdp: bool = False  # type: ignore[assignment]
    max_tokens_per_batch: Annotated[AtLeast1 | None, CHANGES_NOTHING] = None


@dataclass
class GroupConfig(MemoryOptions, EvaluationOptions):
    """Options of every trainer. Batch sizes count groups of at most `responses_per_prompt` responses to one prompt.

    Args:
        max_length: greatest length of a prompt with its response, in tokens.
        over_long: whether longer rows are refused, or left out and counted. The error names them.
        truncated: what happens to responses that were cut off (`finish_reason` is `length`) and are not right. `keep`
            takes them as they are graded or labelled; `drop` leaves them out and counts them.
        right_at: the reward from which a response without a label is right, 1 by default. Methods that ask for right
            responses need it if rewards are above 1, or never 0 or 1.
        responses_per_prompt: most responses in a batch that share one pass over their prompt. Null means all responses
            of the problem.
        logging_steps: optimizer steps between two lines of the log. Losses and metrics are averages since the line
            before.
    """

    MARKS: ClassVar[Mapping[str, tuple[Any, ...]]] = MARKS

    max_length: AtLeast1 = 2048
    over_long: OverLong = "refuse"
    truncated: Annotated[Truncated, Check(_no_mask)] = "keep"
    right_at: RightAt = None
    responses_per_prompt: AtLeast1 | None = 1
    logging_steps: float = 10

    def __post_init__(self) -> None:
        if self.eval_steps is not None and self.eval_strategy == "no":
            self.eval_strategy = "steps"
        if self.early_stopping_patience is not None and self.metric_for_best_model is None:
            self.metric_for_best_model = "loss"
        measure = str(self.metric_for_best_model).removeprefix("eval_")
        if self.greater_is_better is None and measure.startswith(_LESS_IS_BETTER):
            self.greater_is_better = False  # transformers knows only names that end in "loss"
        if not torch.accelerator.is_available():  # else accelerate treats several processes as one each
            self.use_cpu = True
        launched = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")  # the precision that accelerate launch asks for
        self.bf16, self.fp16 = self.bf16 or launched == "bf16", self.fp16 or launched == "fp16"
        if takes_zero3(self.deepspeed):
            if os.environ.get("RANK", "0") == "0":
                say("ZeRO-3 is asked for: FSDP2 of torch divides weights, gradients and optimizer states in its place")
            self.deepspeed, self.fsdp = None, True
        check_deepspeed(self)
        super().__post_init__()
        if self.greater_is_better and SchedulerType(self.lr_scheduler_type).value in FOLLOWS_EVALUATION:
            kwargs: Any = self.lr_scheduler_kwargs or {}  # transformers leaves the schedule at its own mode, min
            self.lr_scheduler_kwargs = {"mode": "max", **kwargs}
        check_options(self)
        if self.deepspeed_plugin is not None:  # also if `accelerate launch` asks for it
            check_deepspeed_parts(self.max_tokens_per_batch)
        self.sharding()  # checks the settings
        if self.max_steps == 0 or (self.max_steps < 0 and self.num_train_epochs <= 0):
            raise ValueError("the run has no steps. Set --max_steps or --num_train_epochs above 0")
        for name in self.report_to or ():
            check_reporter(name)

    def _process_fsdp_args(self) -> None:
        """Reads `--fsdp_config`. Returns nothing for accelerate, which would shard the model again."""
        recomputed, self.activation_checkpointing = self.activation_checkpointing, False  # else it advises FSDP's own
        super()._process_fsdp_args()
        self.activation_checkpointing = recomputed

    def sharding(self) -> Sharding | None:
        """How the weights are divided among the processes, if they are. Raises ValueError as `Sharding.of` does."""
        return Sharding.of(self)


@dataclass(kw_only=True)
class SampledEvaluation(GradingOptions):
    """The accuracy of a policy in training, on problems of the evaluation rows.

    Args:
        eval_samples: number of problems of eval_file that the policy answers at each evaluation, once each. The log
            then has `eval_accuracy` with its 95 % interval. Each problem needs its right answer in the column `gold`.
        eval_temperature: temperature of these answers. 0 is greedy. Other temperatures draw with the training's seed.
        eval_max_new_tokens: length limit of these answers, in tokens.
    """

    GROUP = "evaluation options"
    MARKS: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "task": (_ONLY_MEASURES, _SAMPLES),
        "grader": (_ONLY_MEASURES, _SAMPLES),
        "deadline_s": (_ONLY_MEASURES, _SAMPLES),
    }

    eval_samples: Annotated[int, Bounds(least=0), _ONLY_MEASURES, EVALUATES] = 0
    eval_temperature: Annotated[Temperature, _ONLY_MEASURES, _SAMPLES] = 0.0
    eval_max_new_tokens: Annotated[AtLeast1, _ONLY_MEASURES, _SAMPLES] = 512


@dataclass
class PolicyConfig(GroupConfig, SampledEvaluation):
    """Options of every method that trains a policy."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if str(self.metric_for_best_model).removeprefix("eval_") == "accuracy" and not self.eval_samples:
            raise ValueError(
                "--metric_for_best_model accuracy needs --eval_samples: the accuracy is that of responses which the "
                "policy samples at each evaluation"
            )
        if self.eval_samples and (self.sharding() or self.deepspeed):
            raise ValueError("--eval_samples needs complete weights in each process: remove --fsdp or --deepspeed")
