"""The reward of a final answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qstep.data import RowError
from qstep.data.golds import written_gold
from qstep.rewards.reading import Reading, check_count, column
from qstep.tasks import Tasks, graded_rows


@dataclass(kw_only=True)
class OutcomeReward(Reading):
    """The reward of a final answer, as TRL, verl and OpenRLHF take it: 1 if it is right, 0 if it is wrong.

    An ungradable completion gets None, which TRL leaves out. A completion whose thinking is never closed has no answer,
    so it is wrong. So is one that was cut off before it stated its answer.

    Args:
        task: the task that grades: `math`, `miniature`, `reasoning_gym:<family>`, or your own, `module:object`.
        gold: the column of the data set with the right answer.
        tokenizer: the policy's tokenizer. With it, `completion_ids` show which completions were cut off, and where the
            thinking begins and ends if its marks are special tokens.
        thinking_opened: the mark with which the policy's chat template opens the thinking, such as `<think>`. A prompt
            that is a string shows it by itself.

    Raises:
        ValueError: an answer is missing or blank. The message names column and index.

    Example:
        >>> reward = qstep.OutcomeReward("math", gold="solution")
        >>> reward(prompts=["2 + 3?"] * 2, completions=["It is 5.", "It is 6."], solution=["5", "5"])
        [1.0, 0.0]
    """

    task: str = field(default="math", kw_only=False)
    gold: str = "answer"

    def __post_init__(self) -> None:
        super().__post_init__()
        Tasks(self.task).named(self.task)
        self.__name__ = "outcome"

    def __call__(
        self,
        prompts: Sequence[Any],
        completions: Sequence[Any],
        completion_ids: Sequence[Sequence[int]] | None = None,
        *,
        ended: Sequence[bool] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        """The reward of each completion. `columns` are those of the data set, each with an entry for a completion."""
        rows = self.rows(prompts, completions, completion_ids, ended)
        golds = column(self.gold, columns, len(rows), "gold")
        metadata = columns.get("metadata", [{} for _ in rows])
        check_count("metadata", metadata, len(rows))
        for index, row in enumerate(rows):
            gold = _gold(f"{self.gold}[{index}]", golds[index])
            row |= {"gold": gold, "task": self.task, "metadata": metadata[index] or {}}
        return [row["reward"] for row in graded_rows(rows, Tasks(self.task))]


def _gold(where: str, value: Any) -> str:
    try:
        return written_gold(Path(where), 0, where, value)[0]
    except RowError as error:
        raise ValueError(f"{where} {error.problem}") from None
