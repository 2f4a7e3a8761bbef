"""Who grades a row's answer, checks its steps and tells which answers are the same: a matter of its
`task`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from importlib.metadata import version
from typing import Any

from qstep.data import miniature
from qstep.grading import GRADER_VERSION, Grade, extract_answer, grade_many, group_equivalent
from qstep.types import Row

REASONING_GYM = "reasoning_gym:"
"""The prefix of a procedural task's name."""

Verifier = Callable[[str, dict[str, Any]], float]

# Families with a verifier of their own that was read and found to parse answers without running them. Some
# others call `eval` or sympy's `parse_expr` on the answer, which would run what a model wrote.
_REVIEWED = {
    "chain_sum",
    "decimal_chain_sum",
    "dice",
    "family_relationships",
    "gsm_symbolic",
    "knights_knaves",
    "products",
    "spell_backward",
    "word_sorting",
}


def grade_rows(rows: Sequence[Row], *, deadline_s: float = 3.0) -> list[Grade]:
    """Grades each row's `completion` against its `gold`, in order.

    Args:
        rows: rows with `task`, `gold` and `completion`; those of a reasoning_gym task also `metadata`, with
            the `entry` its verifier needs.
        deadline_s: seconds for the algebra of one answer of a math task, which is ungradable after that.

    Raises:
        ValueError: a task is unknown, or its verifier unsafe.
    """
    grades: dict[int, Grade] = {}
    math = []
    for index, row in enumerate(rows):
        match _kind(row["task"]):
            case "math":
                math.append(index)
            case "miniature":
                grades[index] = miniature.grade(row["gold"], row["completion"])
            case "reasoning_gym":
                grades[index] = _verify(row)
    pairs = [(rows[index]["gold"], rows[index]["completion"]) for index in math]
    grades |= dict(zip(math, grade_many(pairs, deadline_s=deadline_s) if pairs else [], strict=True))
    return [grades[index] for index in range(len(rows))]


def grader_version(task: str) -> str:
    """Names what grades a task, and its version, for the record of each verdict."""
    match _kind(task):
        case "miniature":
            return "miniature 1"
        case "math":
            return GRADER_VERSION
        case _:
            return f"reasoning-gym {version('reasoning-gym')}"


def check_steps(row: Row, steps: Sequence[str]) -> list[bool]:
    """Whether each step and all before it are correct, of a task that can tell exactly.

    Raises ValueError for other tasks.
    """
    if row["task"] != "miniature":
        raise ValueError(
            f"steps of task {row['task']!r} cannot be checked exactly; label them with the method monte_carlo"
        )
    return miniature.check_steps(row["prompt"], list(steps))


def answer_classes_of(rows: Sequence[Row], *, deadline_s: float = 3.0) -> list[int | None]:
    """Numbers the graded rows of one problem by their answers: equal answers alike, None where there is none.

    Answers of math tasks are equal if they are mathematically equivalent, others if they are the same text.
    """
    answers = [row["answer"] for row in rows]
    if rows and _kind(rows[0]["task"]) == "math":
        return group_equivalent(answers, deadline_s=deadline_s)
    numbers: dict[str, int] = {}
    return [None if answer is None else numbers.setdefault(answer, len(numbers)) for answer in answers]


@cache
def verifier(task: str) -> Verifier:
    """The function (answer, entry) -> score of `reasoning_gym:<family>`.

    Raises ValueError for a family that does not exist, or whose verifier is not known to leave model text
    unrun.
    """
    import reasoning_gym
    from reasoning_gym.dataset import ProceduralDataset
    from reasoning_gym.factory import DATASETS

    family = task.removeprefix(REASONING_GYM)
    if family not in DATASETS:
        raise ValueError(f"{task!r} is not a task of reasoning_gym")
    compares_text = DATASETS[family][0].score_answer is ProceduralDataset.score_answer
    if not compares_text and family not in _REVIEWED:
        raise ValueError(
            f"the verifier of {task!r} may run what a model wrote, so it is refused; "
            f"use a family that compares text, or one of {', '.join(sorted(_REVIEWED))}"
        )
    return reasoning_gym.get_score_answer_fn(family)


def _verify(row: Row) -> Grade:
    entry = row.get("metadata", {}).get("entry")
    if entry is None:
        raise ValueError(f"row {row.get('id')!r}: metadata.entry is missing; the verifier of {row['task']} needs it")
    lines = row["completion"].strip().splitlines()
    answer = extract_answer(row["completion"]) or (lines[-1].strip() if lines else None)
    if answer is None:
        return Grade("wrong", "no final answer", None)
    if verifier(row["task"])(answer, entry) == 1.0:
        return Grade("right", "the verifier's full score", answer)
    return Grade("wrong", "less than the verifier's full score", answer)


def _kind(task: str) -> str:
    if task.startswith(REASONING_GYM):
        return "reasoning_gym"
    if task in ("math", "miniature"):
        return task
    raise ValueError(f"task {task!r} is unknown; there are math, miniature and {REASONING_GYM}<family>")
