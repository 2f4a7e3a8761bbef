"""A task and reward functions as a user writes them, loaded by name in tasks/test_tasks.py."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from qstep.grading import Grade
from qstep.types import Problem, Row


class Doubling:
    """`What is twice 4?`; steps are lines `4+4=8`."""

    version = "doubling 1"

    def problems(self, split: str, *, seed: int, offset: int, limit: int | None) -> Iterable[Problem]:
        stop = 10 if limit is None else offset + limit
        for n in range(offset, stop):
            yield Problem(f"doubling/{split}/{seed}/{n}", f"What is twice {n}?", str(2 * n), "doubling")

    def grade(self, rows: Sequence[Row], *, deadline_s: float) -> list[Grade]:
        answers = [row["completion"].split()[-1] for row in rows]
        return [
            Grade("right" if answer == row["gold"] else "wrong", "compared", answer)
            for row, answer in zip(rows, answers, strict=True)
        ]

    def check_steps(self, row: Row, steps: Sequence[str]) -> list[bool | None]:
        return [step == f"{int(row['gold']) // 2}+{int(row['gold']) // 2}={row['gold']}" for step in steps]

    def same_answer(self, a: str, b: str) -> bool:
        return float(a) == float(b)


doubling = Doubling()
not_a_task = "doubling"


def reward_by_gold(prompts: list[Any], completions: list[str], gold: list[str], **columns: Any) -> list[float | None]:
    """TRL's signature: 1 for the gold answer, half for an answer at all, none for a shrug."""
    assert len(prompts) == len(completions) == len(gold) and {"id", "source"} <= set(columns)
    rewards = {True: 1.0, False: 0.5}
    return [
        None if text == "?" else rewards[text.endswith(answer)] for text, answer in zip(completions, gold, strict=True)
    ]


def reward_of_messages(completions: list[Any], solution: list[str], **columns: Any) -> list[float | None]:
    """As TRL's `accuracy_reward` reads what it is given."""
    contents = [completion[0]["content"] for completion in completions]
    return [float(text == answer) for text, answer in zip(contents, solution, strict=True)]


def one_reward(prompts: list[Any], completions: list[str], **columns: Any) -> float:
    return 1.0


def shrug(prompts: list[Any], completions: list[Any], **columns: Any) -> list[float | None]:
    """A grader that can grade nothing."""
    return [None for _ in completions]
