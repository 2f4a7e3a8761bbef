"""TRL's stepwise supervision: a prompt, steps, and a label for each step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from qstep.data.columns import shown
from qstep.data.published.judged import BLANK_ERROR
from qstep.data.published.record import LeftOut, Record
from qstep.data.rows import OF_STEPS, prompt_id
from qstep.types import Row


def read_trl_stepwise(record: Record) -> Iterator[Row | LeftOut]:
    """A row of TRL's type "stepwise supervision" (`trl-lib/math_shepherd`, `trl-lib/prm800k`), or of qstep's format.

        {"prompt": "Which number is larger, 9.8 or 9.11?", "completions": ["The fractional part ...", "So 9.8."],
         "labels": [true, true]}

    In the conversational form, each step is a message of the assistant, or a list with one message:

        {"prompt": [{"role": "user", "content": "..."}],
         "completions": [{"role": "assistant", "content": "..."}, ...], "labels": [0.75, 0.0]}

    Labels are true, false, null for none, or numbers from 0 to 1 with a decimal point; other types are refused. Other
    columns are kept. Whole numbers in `id`, `problem_id` and `gold` become strings. A row whose `labels` is null is not
    used. A blank step is left out with its label and its entries in other columns, and `first_error` is counted down.
    """
    labels = record.field("labels")
    if labels is None:
        yield LeftOut("no labels")
        return
    steps = [_text(record, f"completions[{i}]", step) for i, step in enumerate(record.items("completions"))]
    row = {**record.row, "completions": steps}
    blank = [i for i, step in enumerate(steps) if not step]
    if blank:
        if len(blank) == len(steps) or record.row.get("first_error") in blank:
            yield LeftOut("all steps are blank" if len(blank) == len(steps) else BLANK_ERROR)
            return
        row |= _without(row, blank)
        yield from [LeftOut("a blank step", "part")] * len(blank)
    for column in ("id", "problem_id", "gold"):
        if type(row.get(column)) is int:
            row[column] = str(row[column])
    row.setdefault("id", record.name)
    row.setdefault("problem_id", prompt_id({"prompt": record.field("prompt")}))
    row.setdefault("label_source", "trl_stepwise")
    row.setdefault("source", record.source)
    yield row


def _text(record: Record, field: str, step: Any) -> str:
    """The text of a step without surrounding white space."""
    message = step[0] if isinstance(step, list) and len(step) == 1 else step
    if isinstance(message, dict) and message.get("role") == "assistant":
        held = {name for name, value in message.items() if value is not None and value != []}
        message = message["content"] if held == {"role", "content"} else message
    if not isinstance(message, str):
        raise record.error(
            field, f'is {shown(step)}; a step must be a string, or a message {{"role": "assistant", "content": ...}}'
        )
    return message.strip()


def _without(row: Row, blank: Sequence[int]) -> Row:
    """The columns of a row that have an entry for each step, without those of blank steps, and its `first_error`."""
    steps = len(row["completions"])
    found: Row = {
        column: [entry for i, entry in enumerate(row[column]) if i not in blank]
        for column in ("completions", *OF_STEPS)
        if isinstance(row.get(column), list) and len(row[column]) == steps
    }
    if type(first := row.get("first_error")) is int:
        found["first_error"] = first - sum(i < first for i in blank)
    return found
