"""TRL's stepwise supervision: a prompt, steps, and a label for each step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from qstep.data.columns import shown
from qstep.data.published.record import LeftOut, Record
from qstep.data.rows import prompt_id
from qstep.types import Row


def read_trl_stepwise(record: Record) -> Iterator[Row | LeftOut]:
    """A row of TRL's type "stepwise supervision" (`trl-lib/math_shepherd`, `trl-lib/prm800k`), or of qstep's format.

        {"prompt": "Which number is larger, 9.8 or 9.11?", "completions": ["The fractional part ...", "So 9.8."],
         "labels": [true, true]}

    In the conversational form, each step is a message of the assistant, or a list with one message:

        {"prompt": [{"role": "user", "content": "..."}],
         "completions": [{"role": "assistant", "content": "..."}, ...], "labels": [0.75, 0.0]}

    Labels are true, false, null for none, or numbers from 0 to 1 with a decimal point; other types are refused. Other
    columns are kept. Numbers in `id` and `problem_id` become strings. A row whose `labels` is null is not used.
    """
    labels = record.field("labels")
    if labels is None:
        yield LeftOut("no labels")
        return
    steps = [_text(record, f"completions[{i}]", step) for i, step in enumerate(record.items("completions"))]
    row = {**record.row, "completions": steps}
    for column in ("id", "problem_id"):
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
    if isinstance(message, dict) and message.get("role") == "assistant" and set(message) == {"role", "content"}:
        message = message["content"]
    if not isinstance(message, str) or not message.strip():
        raise record.error(
            field,
            f"is {shown(step)}; a step must be a string that is not blank, or a message "
            '{"role": "assistant", "content": ...}',
        )
    return message.strip()
