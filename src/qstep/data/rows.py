"""The rows of a trajectory file, in TRL's formats, and the rules that they must satisfy.

A row is one response. Sampling writes the first columns, and every later stage adds its own:

    sampled    id ("<problem_id>#<sample>"), problem_id, sample, task, prompt, gold, completion, finish_reason,
               metadata where the problem has any, and, of an engine that gives them, completion_ids and
               logps_behavior
    graded     answer, verdict, reason, grader, label (true, false, null), reward (number, null)
    annotated  completions (the step texts), step_separator (what was between them, or the name of the splitter that
               cut them: `qstep.data.splitters`), labels, label_source, successes, trials, and rollouts (what these
               took) where a model made them
    scored     q_values, score, step_rewards

Rows that people bring need only the columns of their format: `prompt-completion` (prompt, completion),
`unpaired` (also label or reward) or `stepwise` (prompt, completions, labels). A prompt is text or a conversation.
Nothing is cast: `true` is a hard label, `0.75` a soft one, and `null` means unknown, so losses leave the step out.
Null instead of the list `labels` means that the row has no labels. A problem is its `problem_id` together
with its prompt.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, get_args

from qstep.data.jsonl import RowError, canonical_json
from qstep.data.steps import first_cut
from qstep.types import FinishReason, Prompt, Row, Verdict
from qstep.words import counted

Format = Literal["prompt-completion", "unpaired", "stepwise"]

_COLUMNS: dict[Format, tuple[str, ...]] = {
    "prompt-completion": ("prompt", "completion"),
    "unpaired": ("prompt", "completion"),
    "stepwise": ("prompt", "completions", "labels"),
}

_WRITTEN_BY = {
    "verdict": "grade the rows with `qstep grade`",
    "labels": "label the steps with `qstep annotate`, or drop the row",
    "score": "score the rows with `qstep score`",
}


def read_groups(rows: Iterable[Row]) -> Iterator[list[Row]]:
    """Yields each problem's rows, problems in order of appearance; the rows need not be consecutive.

    Holds all rows in memory.
    """
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault(group_key(row), []).append(row)
    yield from groups.values()


def group_key(row: Row) -> tuple[str, str]:
    """The key of a row's problem: its `problem_id`, if it has one, and its prompt."""
    return row.get("problem_id", ""), prompt_id(row)


def prompt_id(row: Row) -> str:
    """The `problem_id` of a row that has none: the same for the same prompt."""
    return hashlib.sha256(canonical_json(row["prompt"])).hexdigest()[:16]


def checked_prompt(prompt: Any, where: str = "prompt") -> Prompt:
    """`prompt`, if it is a string or a conversation.

    Raises TypeError, naming `where`, for anything else.
    """
    if isinstance(prompt, str) or _is_conversation(prompt):
        return prompt
    held = f" of {type(prompt[0]).__name__}" if isinstance(prompt, list) and prompt else ""
    raise TypeError(
        f"{where} is of type {type(prompt).__name__}{held}, and has to be one question: a string, or a list of "
        'messages with "role" and "content". For several questions, use score_rows'
    )


def prompt_kind(prompt: Prompt) -> Literal["string", "messages"]:
    """Whether a prompt is a string or a conversation."""
    return "string" if isinstance(prompt, str) else "messages"


def last_text(prompt: Prompt) -> str:
    """A prompt that is a string, or the content of a conversation's last message."""
    return prompt if isinstance(prompt, str) else prompt[-1]["content"]


def check_row(path: Path, line: int, row: Row, format: Format, *, need: Collection[str] = ()) -> Row:
    """A copy of `row` after checking every column this package knows, those of `format` and `need` being
    required.

    Conversational completions (one assistant message) become their text, which is what the chat template
    would put after the prompt.

    Raises:
        RowError: a column is missing, of a wrong type or out of range, or contradicts another.
    """

    def require(holds: bool, column: str, problem: str) -> None:
        if not holds:
            raise RowError(path, line, column, problem)

    row = dict(row)
    if row.get("labels", ()) is None:
        del row["labels"]
    for column in (*_COLUMNS[format], *sorted(need)):
        advice = f"{_WRITTEN_BY[column]}; " if column in _WRITTEN_BY else ""
        require(column in row, column, f"is missing; {advice}the row has {', '.join(row) or 'no columns'}")
    if format == "unpaired":
        require(
            "label" in row or "reward" in row,
            "reward",
            "is missing, and so is 'label': grade the rows with `qstep grade`, or add either (a number; true or false)",
        )
    if "completion" in row:
        row["completion"] = _completion_text(row["completion"])
    for column, (holds, problem) in _RULES.items():
        if column in row and not holds(row[column]):
            raise RowError(path, line, column, f"is {shown(row[column])}; {problem}")
    if "completions" in row:
        # Only a sampled response can have no steps: it ended at once.
        silent = not row.get("completion", "?").strip()
        require(
            bool(row["completions"]) or silent,
            "completions",
            "is empty; give at least one step, or drop the row",
        )
    if "completions" in row and "step_separator" in row:
        try:
            cut = first_cut(row["completions"], row["step_separator"], split_by_it=True)
        except ValueError as error:
            raise RowError(path, line, "step_separator", str(error)) from None
        require(
            cut is None, "completions", f"has the step {shown(cut)}, which contains the step_separator; split it there"
        )
    if row.get("logps_behavior") is not None:
        require("completion_ids" in row, "logps_behavior", "is given without completion_ids; give the tokens too")
    for column, of in _SAME_LENGTH:
        if row.get(column) is not None and row.get(of) is not None:
            require(
                len(row[column]) == len(row[of]),
                column,
                f"has {counted(len(row[column]), 'entry', 'entries')}, and {of} has {len(row[of])}; give one for each",
            )
    if row.get("successes") is not None and row.get("trials") is not None:
        below = all(s <= t for s, t in zip(row["successes"], row["trials"], strict=True))
        require(below, "successes", "exceeds trials; count each rollout once")
    return row


def takes_null(column: str) -> bool:
    """Whether null is a value that this column may have. A column that this package does not know takes all values."""
    return column not in _RULES or _RULES[column][0](None)


def outcome(row: Row) -> float | None:
    """The reward of a response: `reward`, else 1 or 0 by its `label`, else None (not gradable)."""
    if row.get("reward") is not None:
        return float(row["reward"])
    return None if row.get("label") is None else float(row["label"])


def is_right(row: Row) -> bool | None:
    """Whether a response is right: its `label`, else whether its `reward` is 1 and more; None where nobody knows.

    A reward may be partial, so one above 0 does not say that the response is right.
    """
    if row.get("label") is not None:
        return bool(row["label"])
    return None if row.get("reward") is None else float(row["reward"]) >= 1


def judged_right(row: Row) -> bool | None:
    """Whether a graded row's `verdict` is right; None where it is ungradable."""
    return {"right": True, "wrong": False}.get(row["verdict"])


def label_kind(label: bool | float | None) -> str:
    """The name of a label's kind in counts: right or wrong (hard labels), soft, or null."""
    if label is None:
        return "null"
    return "soft" if not isinstance(label, bool) else "right" if label else "wrong"


def _completion_text(completion: Any) -> Any:
    """The text of a one-message conversation; anything else as it is, for the rules to judge."""
    if _is_conversation(completion) and len(completion) == 1 and completion[0]["role"] == "assistant":
        return completion[0]["content"]
    return completion


def shown(value: Any) -> str:
    """A value as an error shows it, shortened if it is long."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and _are_finite([value])


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_conversation(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(
            isinstance(message, dict)
            and set(message) == {"role", "content"}
            and all(isinstance(part, str) for part in message.values())
            for message in value
        )
    )


def _is_prompt(value: Any) -> bool:
    return _is_conversation(value) or (isinstance(value, str) and bool(value.strip()))


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

_RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "id": (_is_name, "give a string"),
    "problem_id": (_is_name, "give a string"),
    "sample": (_is_count, "give a whole number from 0"),
    "task": (_is_name, "give a string"),
    "metadata": (lambda value: isinstance(value, dict), "give an object"),
    "prompt": (_is_prompt, 'give a string, or messages {"role", "content"} of strings'),
    "gold": (_is_text, "give a string, in quotes even if it is a number"),
    "completion": (_is_text, "give a string, or one assistant message"),
    "completion_ids": (
        lambda ids: _are_counts(ids) and bool(ids),
        "give a non-empty list of token ids",
    ),
    "logps_behavior": (
        lambda logps: _are_numbers(logps) and max(logps, default=0.0) <= _LARGEST_LOGP,
        "give a list of log-probabilities (natural, at most 0)",
    ),
    "finish_reason": (_one_of(get_args(FinishReason)), "give 'stop' or 'length'"),
    "verdict": (_one_of(get_args(Verdict)), "give 'right', 'wrong' or 'ungradable'"),
    "answer": (_or_null(_is_text), "give a string or null"),
    "label": (_or_null(lambda value: isinstance(value, bool)), "give true, false or null"),
    "reward": (
        _or_null(lambda value: _is_number(value) and abs(value) <= _LARGEST_REWARD),
        "give a finite number that float32 holds, or null",
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

_SAME_LENGTH = (
    ("logps_behavior", "completion_ids"),
    ("labels", "completions"),
    ("successes", "completions"),
    ("trials", "completions"),
    ("q_values", "completions"),
    ("step_rewards", "completions"),
)
