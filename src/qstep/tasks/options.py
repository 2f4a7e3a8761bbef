"""Options that name problems, the task that knows their answers, and how they are put."""

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qstep.data import Unanswerable
from qstep.runs.options import Options
from qstep.runs.progress import console

if TYPE_CHECKING:
    from qstep.tasks import Tasks
    from qstep.types import Problem


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

    def tasks(self) -> "Tasks":
        """Finds the task of a row, graded as these options say."""
        from qstep.tasks import Tasks

        return Tasks(self.task, self.grader, self.deadline_s)


@dataclass(kw_only=True)
class PromptOptions(Options):
    """How questions are put.

    Args:
        instruction: text put after each question, behind a blank line.
        conversational: put the question through the model's chat template.
    """

    instruction: str | None = None
    conversational: bool = False


@dataclass(kw_only=True)
class ProblemOptions(PromptOptions, TaskOptions):
    """Which problems.

    Args:
        dataset_name: `miniature`, `reasoning_gym:<family>`, `module:object` (a task of your own), a
            .jsonl/.json/.parquet file, or a Hub id.
        dataset_options: parameters of a reasoning_gym family, such as `--dataset_options.min_terms 2`.
        split: the split of the data set.
        num_problems: how many problems, all by default.
        offset: how many problems to skip first.
        data_seed: seed of generated problems.
        unanswerable: whether a problem whose answer is the word None (GSM-Plus has such questions) is refused, or
            dropped and counted.
    """

    dataset_name: str = "miniature"
    dataset_options: dict[str, Any] | None = None
    split: str = "train"
    num_problems: int | None = None
    offset: int = 0
    data_seed: int = 0
    unanswerable: Unanswerable = "refuse"

    def problems(self) -> "list[Problem]":
        """The problems these options name; raises as `qstep.tasks.load_problems` does."""
        from qstep.tasks import load_problems

        left_out: Counter[str] = Counter()
        problems = load_problems(
            self.dataset_name,
            options=self.dataset_options,
            split=self.split,
            limit=self.num_problems,
            offset=self.offset,
            seed=self.data_seed,
            instruction=self.instruction,
            conversational=self.conversational,
            task=self.task,
            unanswerable=self.unanswerable,
            left_out=left_out,
        )
        if left_out:
            console.print(f"{self.dataset_name}: left out {dict(left_out)}")
        return problems
