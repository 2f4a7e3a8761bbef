"""Options for problems, the task that knows their answers, and the form of prompts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from qstep.data import FILES, Source, Unanswerable, check_columns, code_version, file_fingerprint, is_several
from qstep.runs.options import AtLeast1, Bounds, Check, NotInSettings, Options, ReadIf, Reads, Seed, Such
from qstep.runs.progress import reasons_text, say
from qstep.runs.shared_options import path_inputs, rows_inputs
from qstep.tasks.procedural import REASONING_GYM
from qstep.tasks.task import is_generated, is_users

if TYPE_CHECKING:
    from qstep.tasks import Tasks
    from qstep.types import Problem


def _code_inputs(option: str, value: str) -> Iterator[tuple[str, str]]:
    """The user's `module:object`, with a digest of its file."""
    if is_users(value):
        yield value, code_version(value, option)


def _problem_inputs(option: str, value: str) -> Iterator[tuple[str, str]]:
    """A file of problems, several, a folder of such files, or code that makes them."""
    folder = Path(value).expanduser()
    if not folder.is_dir() and is_several(folder):
        yield from rows_inputs(option, value)
        return
    if folder.is_dir():
        files = sorted(file for file in folder.rglob("*") if file.is_file())
        yield value, " ".join(f"{file.relative_to(folder)} {file_fingerprint(file)}" for file in files)
        return
    found = [*_code_inputs(option, value)] or [*path_inputs(option, value)]
    if not found and value.endswith(FILES):
        raise ValueError(f"{value} is missing")
    yield from found


DatasetName = Annotated[str, Reads(_problem_inputs)]
"""A file, a Hub id, or the user's own code."""


@dataclass(kw_only=True)
class ColumnOptions(Options):
    """Which columns are read.

    Args:
        columns: the file's column for one that qstep reads, such as `--columns.answer ground_truth`. It is renamed, and
            replaces a column that has qstep's name already. `--columns.user question` makes a text the user's turn.
    """

    GROUP = "column options"

    columns: Annotated[
        dict[str, str] | None, Check(check_columns), NotInSettings(unless=lambda config: config.columns is not None)
    ] = None


@dataclass(kw_only=True)
class TaskOptions(Options):
    """The task that knows the answers.

    Args:
        task: the task of problems and rows that do not name one: `math`, `miniature`, `reasoning_gym:<family>`, or
            `module:object`, a task of your own (`qstep.tasks.Task`). Rows may name it only if this option does.
    """

    GROUP = "task options"

    task: Annotated[str, Reads(_code_inputs)] = "math"


@dataclass(kw_only=True)
class GradingOptions(TaskOptions):
    """How answers are graded.

    Args:
        grader: `module:function`, a TRL reward function (prompts, completions, **columns) that grades instead of the
            task. 1 or more is right, less is wrong, None is ungradable.
        deadline_s: maximum seconds for grading one answer. Its worker is killed after that.
    """

    GROUP = "grading options"

    grader: Annotated[str | None, Reads(_code_inputs)] = None
    deadline_s: Annotated[float, Bounds(above=0)] = 3.0

    def tasks(self) -> Tasks:
        """The tasks of rows, with these grading options."""
        from qstep.tasks import Tasks

        return Tasks(self.task, self.grader, self.deadline_s)


@dataclass(kw_only=True)
class PromptOptions(Options):
    """How questions become prompts.

    Args:
        instruction: text put after each question and a blank line.
        conversational: apply the model's chat template to the question.
    """

    GROUP = "prompt options"

    instruction: str | None = None
    conversational: bool = False


_FAMILY = Such(lambda name: name.startswith(REASONING_GYM), "a family of reasoning_gym as --{name}")
_READ = Such(lambda name: not is_generated(name), "a file or a Hub id as --{name}")
_MADE = Such(is_generated, "generated problems as --{name}")
_READ_OR_USERS = Such(
    lambda name: not is_generated(name) or is_users(name), "a file, a Hub id or your own code as --{name}"
)
_HAS_SPLITS = Such(
    lambda name: is_generated(name) or not Source.of(name).is_file, "a --{name} other than a file, which has no splits"
)
_IN_WORDS = ReadIf(
    dataset_name=Such(lambda name: name != "miniature", "a --{name} other than miniature, which has no letters")
)


@dataclass(kw_only=True)
class ProblemOptions(PromptOptions, ColumnOptions, TaskOptions):
    """Which problems.

    Args:
        dataset_name: `miniature`, `reasoning_gym:<family>`, `module:object` (a task of your own), a
            file of rows (JSON, JSON lines, Parquet or CSV), or a Hub id.
        dataset_options: parameters of a reasoning_gym family, such as `--dataset_options.min_terms 2`.
        split: the split of the data set. For a file, only `train` and `test` are accepted, and become part of the
            ids of its problems.
        num_problems: how many problems, all by default.
        offset: how many problems to skip first.
        data_seed: seed of generated problems.
        unanswerable: `refuse` stops at a problem whose answer is null, empty or the word None, as in GSM-Plus; `drop`
            leaves it out and counts it.
    """

    GROUP = "problem options"
    MARKS: ClassVar[Mapping[str, tuple[ReadIf, ...]]] = {
        "instruction": (_IN_WORDS,),
        "conversational": (_IN_WORDS,),
        "columns": (ReadIf(dataset_name=_READ),),
        "task": (ReadIf(dataset_name=_READ_OR_USERS),),
    }

    dataset_name: DatasetName = "miniature"
    dataset_options: Annotated[dict[str, Any] | None, ReadIf(dataset_name=_FAMILY)] = None
    split: Annotated[str, ReadIf("train", "test", dataset_name=_HAS_SPLITS)] = "train"
    num_problems: AtLeast1 | None = None
    offset: Annotated[int, Bounds(least=0)] = 0
    data_seed: Annotated[Seed, ReadIf(dataset_name=_MADE)] = 0
    unanswerable: Annotated[Unanswerable, ReadIf(dataset_name=_READ)] = "refuse"

    def problems(self) -> list[Problem]:
        """The problems that these options name. Raises as `qstep.tasks.load_problems` does."""
        from qstep.tasks.problems import problems_of

        left_out: Counter[str] = Counter()
        problems = problems_of(self, left_out)
        if left_out:
            say(f"{self.dataset_name}: left out {reasons_text(left_out)}")
        return problems
