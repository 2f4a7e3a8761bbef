"""A task graded by a reward function with TRL's signature."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qstep.data import final_text, has_turns
from qstep.grading import Grade, extract_answer
from qstep.types import Problem, Row
from qstep.words import counted

if TYPE_CHECKING:
    from qstep.tasks.task import Task

RewardFunction = Callable[..., list[float | None]]
"""`f(prompts, completions, **columns) -> one reward a row`, None where the answer cannot be graded."""


@dataclass(frozen=True, slots=True)
class Rewarded:
    """`task`, with the grading of `function`: right at a reward of 1 or more, wrong below, ungradable at None.

    The function gets lists. `prompts` and `completions` follow TRL: if a prompt is a conversation, its completion
    is a list with one assistant message. Every other column of the rows and of their `metadata` is passed by keyword,
    with None for a row that lacks it. `gold` is also passed as `solution`, unless the rows have that column.
    """

    task: Task
    function: RewardFunction
    version: str

    def problems(self, split: str, *, seed: int, offset: int, limit: int | None) -> Iterable[Problem]:
        return self.task.problems(split, seed=seed, offset=offset, limit=limit)

    def grade(self, rows: Sequence[Row], *, deadline_s: float) -> list[Grade]:
        """Raises ValueError unless the function returns a finite number or None for each row."""
        if not rows:
            return []
        known = [{"solution": row.get("gold"), **row.get("metadata", {}), **row} for row in rows]
        names = {name for row in known for name in row} - {"prompt", "completion"}
        columns = {name: [row.get(name) for row in known] for name in names}
        rewards = self.function(
            prompts=[row["prompt"] for row in rows], completions=[_completion(row) for row in rows], **columns
        )
        if not isinstance(rewards, list) or len(rewards) != len(rows):
            raise ValueError(
                f"{self.version} returned {rewards!r}; it must return a list with one number for each of "
                f"{counted(len(rows), 'row')}"
            )
        return [self._verdict(final_text(row["completion"]), reward) for row, reward in zip(rows, rewards, strict=True)]

    def check_steps(self, row: Row, steps: Sequence[str]) -> list[bool | None]:
        return self.task.check_steps(row, steps)

    def same_answer(self, a: str, b: str) -> bool:
        return self.task.same_answer(a, b)

    def _verdict(self, completion: str, reward: Any) -> Grade:
        answer = extract_answer(completion)
        if reward is None:
            return Grade("ungradable", "no reward", answer)
        if not isinstance(reward, int | float) or not math.isfinite(reward):
            raise ValueError(f"{self.version} returned {reward!r}; a reward is a finite number, or None")
        return Grade("right" if reward >= 1 else "wrong", f"reward {reward:g}", answer, float(reward))


def _completion(row: Row) -> Any:
    text = row["completion"]
    return text if has_turns(text) or isinstance(row["prompt"], str) else [{"role": "assistant", "content": text}]
