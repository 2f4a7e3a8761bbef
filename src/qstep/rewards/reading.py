"""Reads completions as rows, and the columns of a data set. Messages name column and index, `completions[3]`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qstep.data import checked_prompt, decode_text, has_turns
from qstep.data.chat import ending, marks_as_text
from qstep.data.messages import plain_completion
from qstep.grading.thinking import opened_by
from qstep.types import Row
from qstep.words import counted

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(kw_only=True)
class Reading:
    """How completions are read.

    Args:
        tokenizer: the policy's tokenizer. With it, `completion_ids` show which completions were cut off, and where the
            thinking begins and ends if its marks are special tokens.
        thinking_opened: the mark with which the policy's chat template opens the thinking.
    """

    tokenizer: PreTrainedTokenizerBase | None = None
    thinking_opened: str | None = None

    def __post_init__(self) -> None:
        if self.thinking_opened is not None and opened_by(self.thinking_opened) is None:
            raise ValueError(
                f"thinking_opened is {self.thinking_opened!r}: give the mark with which the chat template opens the "
                "thinking, such as <think>"
            )

    def rows(
        self,
        prompts: Sequence[Any],
        completions: Sequence[Any],
        completion_ids: Sequence[Sequence[int]] | None,
        ended: Sequence[bool] | None,
    ) -> list[Row]:
        """A row for each completion. `ended` says which were not cut off, if that is known."""
        for name, values in {"completions": completions, "completion_ids": completion_ids, "ended": ended}.items():
            if values is not None:
                check_count(name, values, len(prompts))
        rows = [_row(index, *both) for index, both in enumerate(zip(prompts, completions, strict=True))]
        for index, row in enumerate(rows):
            if self.thinking_opened is not None:
                row["thinking_opened"] = self.thinking_opened
            if completion_ids is not None:
                row["completion_ids"] = [int(token) for token in completion_ids[index]]
                self._restore_marks(row)
            if (done := self._has_ended(row) if ended is None else ended[index]) is not None:
                row["finish_reason"] = "stop" if done else "length"
        return rows

    def _restore_marks(self, row: Row) -> None:
        """Reads a response from its tokens if the marks of thinking are special tokens, which trainers leave out."""
        if self.tokenizer is None or has_turns(row["completion"]) or marks_as_text(self.tokenizer) is self.tokenizer:
            return
        row["completion"] = decode_text(self.tokenizer, row["completion_ids"])

    def _has_ended(self, row: Row) -> bool | None:
        """Whether the tokens end with an end of sequence or of a turn. None if that is unknown."""
        if self.tokenizer is None or "completion_ids" not in row:
            return None
        ends = {self.tokenizer.eos_token_id, ending(self.tokenizer, row["prompt"])}
        return any(token in ends for token in row["completion_ids"][-1:])


def column(name: str, columns: Mapping[str, Any], count: int, argument: str) -> Sequence[Any]:
    """A column of the data set. Raises ValueError, naming the argument that chose it, if there is none."""
    if name not in columns:
        raise ValueError(
            f"the data set has no column {name!r}: name it with {argument}=. The columns are "
            f"{', '.join(sorted(columns)) or 'none'}"
        )
    check_count(name, columns[name], count)
    return columns[name]


def check_count(name: str, values: Sequence[Any], count: int) -> None:
    if len(values) != count:
        raise ValueError(
            f"{name} has {counted(len(values), 'entry', 'entries')}, and prompts has {count}: give one for each"
        )


def _row(index: int, prompt: Any, completion: Any) -> Row:
    where = f"completions[{index}]"
    try:
        plain = plain_completion(completion, may_stop=True)
    except ValueError as error:
        raise ValueError(f"{where} {error}") from None
    if not isinstance(plain, str) and plain is completion:
        raise TypeError(f"{where} is {completion!r:.60}: give a string, or a list of messages")
    return {"id": where, "prompt": checked_prompt(prompt, f"prompts[{index}]"), "completion": plain}
