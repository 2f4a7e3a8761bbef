"""Options that several commands share, each written once; a command's config inherits those it takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qstep.data import check_separator
from qstep.stages.inputs import choose_device, hide_loading_bars, load_for_sampling, model_fingerprint
from qstep.types import Dtype

if TYPE_CHECKING:
    from qstep.generation import Engine, SamplingSettings
    from qstep.scoring import Scorer
    from qstep.tasks import Tasks
    from qstep.types import Problem

NO_EFFECT = ("output", "max_rows", "max_tokens", "score_tokens", "device")
"""Options that cannot change a stage's rows."""


_LEAST = {
    **dict.fromkeys(("num_problems", "max_problems", "max_per_problem", "num_samples", "rollouts", "draws"), 1),
    **dict.fromkeys(("rows_at_once", "max_rows", "max_tokens", "score_tokens"), 1),
    **dict.fromkeys(("max_new_tokens", "textbook_rows"), 1),
    **dict.fromkeys(("offset", "temperature", "deadline_s"), 0),
}


@dataclass(kw_only=True)
class Options:
    """What every command's options are checked for as soon as they are given.

    Raises ValueError, naming the option, for a count that is too small or a step separator that cannot be meant.
    """

    def __post_init__(self) -> None:
        for name, least in _LEAST.items():
            value = getattr(self, name, None)
            if value is not None and not value >= least:
                raise ValueError(f"--{name} is {value}; it must be at least {least}")
        separator = getattr(self, "step_separator", None)
        if separator is not None:
            check_separator("step_separator", separator)


@dataclass(kw_only=True)
class TaskOptions(Options):
    """Who knows the answers.

    Args:
        task: the task of problems and rows that name none: `math`, `miniature`, `reasoning_gym:<family>`, or
            `module:object`, one of your own (`qstep.tasks.Task`), which rows may name only if you do.
    """

    task: str = "math"


@dataclass(kw_only=True)
class GradingOptions(TaskOptions):
    """How answers are graded.

    Args:
        grader: `module:function`, a reward function as TRL has them (prompts, completions, **columns), instead of
            the task's grading; 1 and more is right, less is wrong, None ungradable.
        deadline_s: seconds one answer may take before its worker is killed.
    """

    grader: str | None = None
    deadline_s: float = 3.0

    def tasks(self) -> Tasks:
        """Finds the task of a row, graded as these options say."""
        from qstep.tasks import Tasks

        return Tasks(self.task, self.grader, self.deadline_s)


@dataclass(kw_only=True)
class ProblemOptions(TaskOptions):
    """Which problems.

    Args:
        dataset_name: `miniature`, `reasoning_gym:<family>`, `module:object` (a task of your own), a
            .jsonl/.json/.parquet file, or a Hub id.
        dataset_options: parameters of a reasoning_gym family, such as `--dataset_options.min_terms 2`.
        split: the split of the data set.
        num_problems: how many problems, all by default.
        offset: how many problems to skip first.
        data_seed: seed of generated problems.
        instruction: text put after each question, behind a blank line.
        conversational: put the question through the model's chat template.
    """

    dataset_name: str = "miniature"
    dataset_options: dict[str, Any] | None = None
    split: str = "train"
    num_problems: int | None = None
    offset: int = 0
    data_seed: int = 0
    instruction: str | None = None
    conversational: bool = False

    def problems(self) -> list[Problem]:
        """The problems these options name; raises as `qstep.tasks.load_problems` does."""
        from qstep.tasks import load_problems

        return load_problems(
            self.dataset_name,
            options=self.dataset_options,
            split=self.split,
            limit=self.num_problems,
            offset=self.offset,
            seed=self.data_seed,
            instruction=self.instruction,
            conversational=self.conversational,
            task=self.task,
        )


@dataclass(kw_only=True)
class SamplingOptions(Options):
    """How responses are drawn.

    Args:
        max_new_tokens: length limit of a whole response, counted from its prompt.
        temperature: 0 is greedy.
        top_p: nucleus.
        seed: of the sampling; each response has its own stream, whatever the batch.
    """

    max_new_tokens: int = 512
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0

    def sampling(self) -> SamplingSettings:
        """The same for an engine."""
        from qstep.generation import SamplingSettings

        return SamplingSettings(self.max_new_tokens, self.temperature, self.top_p, self.seed)


@dataclass(kw_only=True)
class DeviceOptions(Options):
    """Where a model is computed.

    Args:
        device: cpu, cuda, or auto.
        dtype: of the weights.
    """

    device: str = "auto"
    dtype: Dtype = "float32"


@dataclass(kw_only=True)
class EngineOptions(DeviceOptions):
    """What draws responses.

    Args:
        max_rows: responses decoded at once.
        max_tokens: positions held in the cache at once; lower it when memory runs out.
        model_revision: of a Hub id: branch, tag or commit.
    """

    max_rows: int = 1024
    max_tokens: int = 131_072
    model_revision: str | None = None

    def engine(self, model_name_or_path: str) -> Engine:
        """The engine of a model."""
        from qstep.generation import HFEngine

        model, tokenizer = load_for_sampling(
            model_name_or_path, device=self.device, dtype=self.dtype, revision=self.model_revision
        )
        return HFEngine(model, tokenizer, max_rows=self.max_rows, max_tokens=self.max_tokens)


@dataclass(kw_only=True)
class ScorerOptions(DeviceOptions):
    """What gives steps their Q.

    Args:
        scorer: a folder or Hub id written by `qstep train pqm|bce|mse|orm`.
        score_tokens: tokens scored at once; a prompt counts once for the rows that share it.
        step_separator: what cuts responses into steps, where that is a function of your own (`split:module:function`):
            it runs only if you name it. Else the scorer knows it.
    """

    scorer: str
    score_tokens: int = 8192
    step_separator: str | None = None

    def scorer_fingerprint(self) -> str:
        """Names the scorer by all that its Qs follow from."""
        return model_fingerprint(self.scorer)

    def load_scorer(self) -> Scorer:
        """The scorer, ready to use.

        Raises ValueError where its steps are not cut as these options say.
        """
        from qstep.scoring import StepScorer

        hide_loading_bars()
        scorer = StepScorer.load(self.scorer, device=choose_device(self.device), dtype=self.dtype)
        if self.step_separator not in (None, scorer.step_separator):
            raise ValueError(
                f"--step_separator is {self.step_separator!r}, and {self.scorer} scores steps that were cut by "
                f"{scorer.step_separator!r}: leave the option out, or name that"
            )
        return scorer
