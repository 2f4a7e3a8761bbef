"""What each column of a row may hold."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeGuard, get_args

from qstep.data.messages import is_message
from qstep.grading.thinking import MARKS
from qstep.types import FinishReason, Message, Row, Verdict


def shown(value: Any) -> str:
    """A value as an error shows it, shortened if it is long."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _is_id(value: Any) -> bool:
    return _is_name(value) or (isinstance(value, int) and not isinstance(value, bool))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and _are_finite([value])


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def is_conversation(value: Any) -> TypeGuard[list[Message]]:
    """Whether a value is a list of messages with role and content."""
    return isinstance(value, list) and bool(value) and all(map(is_message, value))


def _is_prompt(value: Any) -> bool:
    return is_conversation(value) or (isinstance(value, str) and bool(value.strip()))


def _is_step_labels(value: Any) -> bool:
    if not isinstance(value, list):
        return False
    known = [label for label in value if label is not None]
    hard = all(isinstance(label, bool) for label in known)
    return hard or all(isinstance(label, float) and 0 <= label <= 1 for label in known)


def _are_numbers(value: Any) -> bool:
    return isinstance(value, list) and {*map(type, value)} <= {int, float} and _are_finite(value)


def _are_finite(values: list[Any]) -> bool:
    try:
        return all(map(math.isfinite, values))
    except OverflowError:  # a whole number beyond all floats
        return False


def _are_counts(value: Any) -> bool:
    return isinstance(value, list) and {*map(type, value)} <= {int} and min(value, default=0) >= 0


def _list_of(holds: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(holds(item) for item in value)


def _or_null(holds: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or holds(value)


def _one_of(choices: tuple[str, ...]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and value in choices


_LARGEST_REWARD = 3e38

# A log-probability computed in a narrow dtype may come out a little above 0.
_LARGEST_LOGP = 1e-2
# No token of this log-probability is ever sampled. Servers write -9999 in place of minus infinity.
_SMALLEST_LOGP = -1e3

NAMES: dict[str, tuple[str, ...]] = {
    "prompt": ("prompt", "problem", "question"),
    "gold": ("gold", "answer", "gt", "ground_truth", "target"),
    "completion": (
        *("completion", "response", "text", "generation", "model_output"),
        *("responses", "generations", "code"),
    ),
}
"""Each of this package's columns, and the names under which it is read."""

LISTS = ("responses", "generations", "code")
"""The names of a list of responses. These columns are no response if they are a string."""

TYPED = frozenset(
    {
        *("label", "labels", "reward", "completions", "responses", "q_values", "score", "step_rewards", "metadata"),
        *("completion_ids", "logps_behavior", "successes", "trials", "rollouts", "sample"),
    }
)
"""The columns that are never text. Their cells in a CSV file are read as JSON."""

RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "id": (_is_id, "give a string or a whole number"),
    "problem_id": (_is_id, "give a string or a whole number"),
    "sample": (_is_count, "give a whole number from 0"),
    "task": (_is_name, "give a string"),
    "metadata": (lambda value: isinstance(value, dict), "give an object"),
    "chat_template_kwargs": (
        lambda value: not value,
        "rows have no arguments of their own. Drop the column, and give --chat_template_kwargs.NAME VALUE for all rows",
    ),
    "prompt": (_is_prompt, 'give a string, or messages {"role", "content"} of strings'),
    "gold": (_is_text, "give a string, in quotes even if it is a number"),
    "completion": (
        lambda value: _is_text(value) or is_conversation(value),
        "give a string, or messages that begin and end with an assistant's",
    ),
    "completion_ids": (
        lambda ids: _are_counts(ids) and bool(ids),
        "give a non-empty list of token ids",
    ),
    "logps_behavior": (
        lambda logps: _are_numbers(logps) and all(_SMALLEST_LOGP <= logp <= _LARGEST_LOGP for logp in logps),
        "give a list of log-probabilities of sampled tokens (natural, at most 0, at least -1000)",
    ),
    "thinking_opened": (
        _or_null(_one_of(tuple(opening for opening, _ in MARKS))),
        f"give the mark that opened the thinking, such as {MARKS[0][0]!r}, or null",
    ),
    "finish_reason": (_one_of(get_args(FinishReason)), "give 'stop' or 'length'"),
    "verdict": (_one_of(get_args(Verdict)), "give 'right', 'wrong' or 'ungradable'"),
    "answer": (_or_null(_is_text), "give a string or null"),
    "label": (_or_null(lambda value: isinstance(value, bool)), "give true, false or null"),
    "reward": (
        _or_null(lambda value: _is_number(value) and abs(value) <= _LARGEST_REWARD),
        "give a finite number that float32 holds, or null. A truth value is a label: --columns.label COLUMN",
    ),
    "completions": (
        _list_of(lambda step: _is_text(step) and bool(step.strip())),
        "give a list of steps, none of them blank",
    ),
    "step_separator": (_is_name, "give the string between the steps, or the name of their splitter"),
    "labels": (
        _is_step_labels,
        "give true or false for each step (hard labels), or a number in [0, 1] with a decimal point for each step "
        "(soft labels), never both kinds in a row; null for a step that has none",
    ),
    "successes": (_or_null(_are_counts), "give a list of whole numbers, or null"),
    "trials": (_or_null(_are_counts), "give a list of whole numbers, or null"),
    "q_values": (_are_numbers, "give a list of finite numbers"),
    "step_rewards": (_are_numbers, "give a list of finite numbers"),
    "score": (_or_null(_is_number), "give a finite number or null"),
}
"""For each known column, whether a value suits it, and what to give instead of one that does not."""


FINISH_REASONS = {"max_tokens": "length", "end_turn": "stop", "eos": "stop", "eos_token": "stop"}
"""What servers and libraries call the reasons, and how they are read."""


def takes_null(column: str) -> bool:
    """Whether null is a value that this column may have. A column that this package does not know takes all values."""
    return column not in RULES or RULES[column][0](None)


def typed(cell: str) -> Any:
    """The cell of a CSV file in a column that is never text: its JSON, or the text if it is none."""
    with suppress(ValueError):
        return json.loads(cell.lower() if cell.lower() in ("true", "false", "null") else cell)
    return cell


def chosen_reward(row: Row) -> str:
    """The advice to name the reward, if a row has no reward or label, but a number or truth value that is not read."""
    if row.keys() & {"reward", "label"}:
        return ""
    known = {*RULES, *(alias for names in NAMES.values() for alias in names)} - {"score"}
    found = [name for name, value in row.items() if name not in known and isinstance(value, bool | int | float)]
    choices = " or ".join(
        f"--columns.{'label' if isinstance(row[name], bool) else 'reward'} {name}" for name in found[:3]
    )
    return f". If a column says it, name it: {choices}" if choices else ""
