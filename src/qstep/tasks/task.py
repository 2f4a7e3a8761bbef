"""What a row's `task` names, and how the object behind the name is found."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol, cast

from qstep.data import USER_CODE, code_version, final_text, load_code
from qstep.data.parts import text_before
from qstep.grading import Grade, states_answer
from qstep.grading.thinking import never_ends, opened_by
from qstep.tasks.mathematics import Mathematics
from qstep.tasks.miniature import Miniature
from qstep.tasks.procedural import REASONING_GYM, ReasoningGym
from qstep.tasks.rewarded import Rewarded, RewardFunction
from qstep.types import Problem, Prompt, Row


class Task(Protocol):
    """A kind of problem: where problems come from, and how answers are graded and steps checked.

    A user's own task is any object with these members, named `module:object` on the command line.
    """

    @property
    def version(self) -> str:
        """The name and version of the grader, which is stored with every verdict."""
        ...

    def problems(self, split: str, *, seed: int, offset: int, limit: int | None) -> Iterable[Problem]:
        """Problems `offset` to `offset + limit`, or to the end; ids are distinct over splits and seeds.

        Raises ValueError for a split that does not exist, and if `limit` is None but the problems have no end.
        """
        ...

    def grade(self, rows: Sequence[Row], *, deadline_s: float) -> list[Grade]:
        """The verdict on each row's `completion`, compared with its `gold`. An answer that takes longer than
        `deadline_s` is ungradable."""
        ...

    def check_steps(self, row: Row, steps: Sequence[str]) -> list[bool | None]:
        """Whether each step and all before it are right; None if the steps alone do not show it."""
        ...

    def same_answer(self, a: str, b: str) -> bool:
        """Whether two final answers of one problem are the same answer, however written."""
        ...


@dataclass(frozen=True, slots=True)
class Tasks:
    """Finds the task of a row.

    Rows may name this package's tasks (`math`, `miniature`, `reasoning_gym:<family>`). The user's own code is imported
    only if the user named it here. A name in a file of rows is not enough.

    Args:
        task: the task of rows that have no `task`; `module:object` for a task of the user's own.
        grader: a reward function with TRL's signature that replaces the grading of every task; the function itself, or
            its name as `module:function`.
        deadline_s: seconds the grading of one answer may take; it is ungradable after that.
    """

    task: str = "math"
    grader: str | RewardFunction | None = None
    deadline_s: float = 3.0

    def of(self, row: Row) -> Task:
        """The task of a row.

        Raises:
            ValueError: the task is unknown, or a `module:object` other than the one named here.
        """
        return self.named(row.get("task", self.task))

    def named(self, name: str) -> Task:
        """The task of that name; raises as `of` does."""
        if is_users(name) and name != self.task:
            raise ValueError(f"task {name!r} is code of your own. It is loaded only if you name it too: --task {name}")
        task = _find(name)
        return task if self.grader is None else Rewarded(task, *_reward_function(self.grader))


BUILT_IN = Tasks()
"""The tasks of this package alone."""

_NAMED: Mapping[str, Callable[[], Task]] = {"math": Mathematics, "miniature": Miniature}
"""The tasks of this package by name. The families of reasoning_gym have names too, after a prefix."""


def is_generated(name: str) -> bool:
    """Whether a data set's name is that of a task, which makes problems, and not of a file or a Hub id."""
    return name in _NAMED or name.startswith(REASONING_GYM) or is_users(name)


def is_users(name: str) -> bool:
    """Whether a name is that of a user's task, `module:object`."""
    return USER_CODE.fullmatch(name) is not None and not name.startswith(REASONING_GYM)


def grade_rows(rows: Sequence[Row], tasks: Tasks = BUILT_IN) -> list[Grade]:
    """Grades each row's `completion` against its `gold` by its task, in order; raises as `Tasks.of` does.

    A response without an answer is wrong (see `unanswered`), unless the user's own code grades it.
    """
    by_task: dict[str, list[int]] = {}
    grades: dict[int, Grade] = {}
    for index, row in enumerate(rows):
        name = row.get("task", tasks.task)
        reason = None if tasks.grader is not None or is_users(name) else unanswered(row)
        if reason is not None:
            grades[index] = Grade("wrong", reason, None)
        else:
            by_task.setdefault(name, []).append(index)
    for name, indices in by_task.items():
        found = tasks.named(name).grade([rows[index] for index in indices], deadline_s=tasks.deadline_s)
        grades.update(zip(indices, found, strict=True))
    return [grades[index] for index in range(len(rows))]


def unanswered(row: Row) -> str | None:
    """Why a response has no final answer, from how it ended; None if it may have one.

    Thinking that its prompt opened must be closed. A response that was cut off (`finish_reason` is length) must have
    stated its answer by a mark: its last number is an intermediate result.
    """
    text = final_text(row["completion"])
    if never_ends(text_before(row), text):
        return "no final answer: the thinking is never closed"
    if row.get("finish_reason") == "length" and row.get("task") != "miniature" and not states_answer(text):
        return "no final answer: the response was cut off"
    return None


def opened_thinking(tokenizer: Any, prompt: Prompt, prompt_ids: Sequence[int]) -> Row:
    """The column `thinking_opened` of responses to a conversation: the mark by which the chat template opens thinking.

    It is empty if the template opens none, or the prompt is text, which shows it.
    """
    if isinstance(prompt, str):
        return {}
    rendered = tokenizer.decode(list(prompt_ids), skip_special_tokens=False)
    opened = opened_by(str(rendered))
    return {} if opened is None else {"thinking_opened": opened}


def graded_rows(rows: Sequence[Row], tasks: Tasks = BUILT_IN) -> list[Row]:
    """The rows with their `answer`, `verdict`, `reason`, `grader`, `label` and `reward`; raises as `Tasks.of` does."""
    return [
        {
            **row,
            "answer": grade.answer,
            "verdict": grade.verdict,
            "reason": grade.reason,
            "grader": tasks.of(row).version,
            **_outcome(grade),
        }
        for row, grade in zip(rows, grade_rows(rows, tasks), strict=True)
    ]


def _outcome(grade: Grade) -> Row:
    if grade.verdict == "ungradable":
        return {"label": None, "reward": None}
    right = grade.verdict == "right"
    return {"label": right, "reward": float(right) if grade.reward is None else grade.reward}


def answer_classes_of(rows: Sequence[Row], tasks: Tasks = BUILT_IN) -> list[int | None]:
    """Numbers the answers of one problem's graded rows: the same answer gets the same number, no answer gets None.

    An answer joins the first class whose first member is the same answer.
    """
    classes: list[int | None] = []
    number: dict[str, int] = {}
    firsts: list[str] = []
    for row in rows:
        answer = row.get("answer")
        if answer is None or not answer.strip():
            classes.append(None)
            continue
        if answer not in number:
            task = tasks.of(row)
            known = (i for i, first in enumerate(firsts) if task.same_answer(first, answer))
            number[answer] = next(known, len(firsts))
            if number[answer] == len(firsts):
                firsts.append(answer)
        classes.append(number[answer])
    return classes


def _reward_function(grader: str | RewardFunction) -> tuple[RewardFunction, str]:
    """A grader's function and its version, which for a function in memory is its name."""
    return _loaded(grader) if isinstance(grader, str) else (grader, getattr(grader, "__qualname__", repr(grader)))


@cache
def _loaded(grader: str) -> tuple[RewardFunction, str]:
    function = load_code(grader, "grader")
    if not callable(function):
        raise ValueError(f"grader {grader!r} is not a function: {function!r}")
    return function, code_version(grader, "grader")


@cache
def _find(name: str) -> Task:
    if name in _NAMED:
        return _NAMED[name]()
    if name.startswith(REASONING_GYM):
        return ReasoningGym.named(name)
    if not is_users(name):
        raise ValueError(
            f"task {name!r} is unknown. Choose {', '.join(_NAMED)}, {REASONING_GYM}<family>, or module:object for "
            "your own"
        )
    task = load_code(name, "task")
    members = [member for member in vars(Task) if not member.startswith("_")]
    missing = [member for member in members if not hasattr(task, member)]
    if missing:
        raise ValueError(f"task {name!r} has no {', '.join(missing)}; a task has {', '.join(members)}")
    return cast(Task, task)
