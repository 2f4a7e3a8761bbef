"""The rows of a trajectory file, in TRL's formats, and the rules that they must satisfy.

A row is one response. Sampling writes the first columns, and every later stage adds its own:

    sampled    id ("<problem_id>#<sample>"), problem_id, sample, task, prompt, gold, completion, finish_reason,
               metadata if the problem has any; completion_ids and logps_behavior if the engine returns them
    graded     answer, verdict, reason, grader, label (true, false, null), reward (number, null)
    annotated  completions (the step texts), step_separator (the string between them, or the name of the splitter:
               `qstep.data.splitters`), labels, label_source, successes, trials, and rollouts (their cost) if a model
               made any
    scored     q_values, score, step_rewards

Rows made elsewhere need only the columns of their format: `prompt-completion` (prompt, completion), `unpaired` (also
label or reward) or `stepwise` (prompt, completions, labels). A prompt is text or a conversation, and a completion may
have several turns (`qstep.data.messages`). Types are not converted: `true` is a hard label and `0.75` a soft one.
`null` means unknown, and losses leave that step out. If `labels` itself is null, the row has no labels. A problem is
identified by its `problem_id` and its prompt.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator
from operator import gt
from pathlib import Path
from typing import Any, Literal

from qstep.data.columns import FINISH_REASONS, RULES, chosen_reward, is_conversation, shown, takes_null
from qstep.data.inputs import from_table
from qstep.data.jsonl import RowError, canonical_json
from qstep.data.messages import TURNS, final_text, plain_completion, plain_prompt, read_messages, turn_texts
from qstep.data.parts import part_of
from qstep.data.steps import first_cut
from qstep.data.truth import Firsts, with_truth_values
from qstep.types import Prompt, Row
from qstep.words import counted

Format = Literal["prompt-completion", "unpaired", "stepwise"]

_COLUMNS: dict[Format, tuple[str, ...]] = {
    "prompt-completion": ("prompt", "completion"),
    "unpaired": ("prompt", "completion"),
    "stepwise": ("prompt", "completions", "labels"),
}

_WRITTEN_BY = {
    "verdict": "qstep grade",
    "labels": "qstep annotate",
    "q_values": "qstep score",
    "score": "qstep score",
    "step_rewards": "qstep score",
}

OF_STEPS = ("labels", "successes", "trials", "q_values", "step_rewards")
"""The columns with an entry for each step."""

_SAME_LENGTH = (("logps_behavior", "completion_ids"), *((column, "completions") for column in OF_STEPS))

_Fault = tuple[str, str] | None
"""A column, and what is wrong with it."""


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
    """The `problem_id` for a row that has none. It is a digest of the prompt."""
    return hashlib.sha256(canonical_json(row["prompt"])).hexdigest()[:16]


def checked_prompt(prompt: Any, where: str = "prompt") -> Prompt:
    """Returns `prompt` if it is a string or a conversation.

    Messages come into one form (`qstep.data.messages`). Raises ValueError for messages that cannot, and TypeError for
    anything else. Both name `where`.
    """
    try:
        prompt = plain_prompt(prompt)
    except ValueError as error:
        raise ValueError(f"{where} {error}") from None
    if isinstance(prompt, str) or is_conversation(prompt):
        return prompt
    held = f" of {type(prompt[0]).__name__}" if isinstance(prompt, list) and prompt else ""
    raise TypeError(
        f"{where} must be one question, not {type(prompt).__name__}{held}: a string, or a list of messages with "
        '"role" and "content". For several questions, use score_rows'
    )


def prompt_kind(prompt: Prompt) -> Literal["string", "messages"]:
    """Whether a prompt is a string or a conversation."""
    return "string" if isinstance(prompt, str) else "messages"


def last_text(prompt: Prompt) -> str:
    """A prompt's text: the string, or the content of a conversation's last message."""
    return prompt if isinstance(prompt, str) else prompt[-1]["content"]


def how_to_add(column: str) -> str:
    """What to do about rows that lack a column which a command writes."""
    return f"run `{_WRITTEN_BY[column]}`, which writes it{', or drop the row' if column == 'labels' else ''}"


_TEXTS = ("prompt", "completion")
"""In these columns a null is an error. In others that may not be null it counts as missing."""


def check_row(
    path: Path, line: int, row: Row, format: Format, *, need: Collection[str] = (), kinds: Firsts | None = None
) -> Row:
    """Checks every column that this package knows, and returns a copy. Columns of `format` and `need` are required.

    A null in a column that may not be null counts as missing. Ids that are whole numbers become strings. Other names of
    a `finish_reason` become `stop` or `length`. Messages come into one form (`qstep.data.messages`). A completion of
    one assistant message becomes its text. The steps of one with several turns are the assistant's turns.

    With `kinds`, labels that are integers 1 and 0 become true and false, and the kinds of the row's labels are added to
    it. The caller refuses columns of several kinds (`qstep.data.truth`).

    Raises:
        RowError: a column is missing, of a wrong type or out of range, or contradicts another.
    """
    row = row if kinds is None else with_truth_values(line, row, kinds)
    row = {name: value for name, value in row.items() if value is not None or name in _TEXTS or takes_null(name)}
    if isinstance(reason := row.get("finish_reason"), str):
        row["finish_reason"] = FINISH_REASONS.get(reason, reason)
    fault = (
        _bad_messages(path, line, row)
        or _bad_turns(row, format)
        or _missing_column(row, format, need)
        or _bad_value(row)
        or _bad_steps(row)
        or _bad_lists(row)
    )
    if fault is not None:
        raise RowError(path, line, *fault)
    return row | {name: str(row[name]) for name in ("id", "problem_id") if isinstance(row.get(name), int)}


def _bad_messages(path: Path, line: int, row: Row) -> _Fault:
    """Brings the row's messages into one form. What is no message is left, and checked later."""

    def response(completion: Any) -> Any:
        is_cell = isinstance(completion, str) and completion.lstrip().startswith("[") and from_table(path, line)
        return plain_completion(read_messages(completion) if is_cell else completion)

    for column, plain in (
        ("prompt", lambda prompt: plain_prompt(prompt, row.pop("tools", None))),
        ("completion", response),
    ):
        if column in row:
            try:
                row[column] = plain(row[column])
            except ValueError as error:
                return column, str(error)
    return None


def _bad_turns(row: Row, format: Format) -> _Fault:
    """Checks a response of several turns. The turns become its steps if steps matter."""
    completion = row.get("completion")
    if not is_conversation(completion):
        return None
    if row.get("completion_ids") is not None:
        return (
            "completion_ids",
            "is given for a response of several turns, whose tokens qstep makes; drop the column",
        )
    if isinstance(row.get("prompt"), str):
        return "prompt", "is a string, and the response has several turns; give the prompt as messages"
    if format != "stepwise" and not row.keys() & {"completions", "labels", "q_values", "step_rewards"}:
        return None
    steps = turn_texts(completion)
    if row.setdefault("step_separator", TURNS) != TURNS or row.setdefault("completions", steps) != steps:
        return "completions", f"differs from the assistant's turns of the completion, which are its steps ({TURNS})"
    return None


def _missing_column(row: Row, format: Format, need: Collection[str]) -> _Fault:
    for column in (*_COLUMNS[format], *sorted(need)):
        if column not in row:
            return column, f"is missing; {_advice(row, column)}the row has {', '.join(row) or 'no columns'}"
    if format == "unpaired" and "label" not in row and "reward" not in row:
        return (
            "reward",
            "is missing, and so is 'label': grade the rows with `qstep grade`, or add either (a number; true or false)"
            f"{chosen_reward(row)}",
        )
    return None


def _advice(row: Row, column: str) -> str:
    """What to do about a missing column, from what the row has instead."""
    if column == "completions" and "completion" in row:
        return "run `qstep annotate`, which splits responses into labelled steps; "
    if column in _WRITTEN_BY:
        return f"{how_to_add(column)}; "
    if "messages" in row:
        return "give --columns.messages messages, if the last message is the response; "
    if "responses" in row and isinstance(row.get("rewards"), list):
        return (
            'give each response a row of its own, as `explode(["responses", "rewards"])` of pandas does, and call its '
            "columns `response` and `reward`. Leave `id` out, since all of them would have it; "
        )
    if "responses" in row:
        return "run `qstep grade`, which reads lists of responses; "
    if {"chosen", "rejected"} <= row.keys():
        return (
            "these are pairs, so make a row of each response, with the reward 1 if it is the chosen one and 0 if it is "
            "the rejected one; "
        )
    if row.keys() & {"input", "steps", "trajectory", "original_process"}:
        return "if this is a published data set, run `qstep convert`; "
    return f"name its column with --columns.{column} COLUMN; " if column in ("prompt", "completion") else ""


def _bad_value(row: Row) -> _Fault:
    for column, (holds, problem) in RULES.items():
        if column in row and not holds(row[column]):
            return column, f"is {shown(row[column])}; {problem}"
    return None


def _bad_steps(row: Row) -> _Fault:
    if "completions" not in row:
        return None
    # A response without steps is possible if it is empty, or lacks the part that is cut.
    partly = part_of(str(row.get("step_separator"))) is not None
    if not row["completions"] and not partly and final_text(row.get("completion", "?")).strip():
        return "completions", "is empty; give at least one step, or drop the row"
    if "step_separator" not in row:
        return None
    try:
        cut = first_cut(row["completions"], row["step_separator"], split_by_it=True)
    except ValueError as error:
        return "step_separator", str(error)
    if cut is None:
        return None
    return "completions", f"has the step {shown(cut)}, which contains the step_separator; split it there"


def _bad_lists(row: Row) -> _Fault:
    if row.get("logps_behavior") is not None and "completion_ids" not in row:
        return "logps_behavior", "is given without completion_ids; give the tokens too"
    for column, other in _SAME_LENGTH:
        own, expected = row.get(column), row.get(other)
        if own is not None and expected is not None and len(own) != len(expected):
            entries = counted(len(own), "entry", "entries")
            return column, f"has {entries}, and {other} has {len(expected)}; give one for each"
    successes, trials = row.get("successes"), row.get("trials")
    if successes is not None and trials is not None and any(map(gt, successes, trials)):
        return "successes", "exceeds trials; count each rollout once"
    return None


def outcome(row: Row) -> float | None:
    """The reward of a response: its `reward`, or 1 or 0 by its `label`, or None (not gradable)."""
    if row.get("reward") is not None:
        return float(row["reward"])
    return None if row.get("label") is None else float(row["label"])


def is_right(row: Row) -> bool | None:
    """Whether a response is right: its `label`, or whether its `reward` is at least 1. None if it has neither.

    A reward may be partial, so a reward above 0 does not mean that the response is right.
    """
    if row.get("label") is not None:
        return bool(row["label"])
    return None if row.get("reward") is None else float(row["reward"]) >= 1


def with_verdict(row: Row, right_at: float) -> Row:
    """The row; if it has a reward and no label, with the label that the reward is at least `right_at`."""
    if row.get("label") is not None or row.get("reward") is None:
        return row
    return {**row, "label": row["reward"] >= right_at}


def is_truncated(row: Row) -> bool:
    """Whether a response was cut off and is not known to be right. Nobody knows how it would have ended."""
    return row.get("finish_reason") == "length" and not is_right(row)


def judged_right(row: Row) -> bool | None:
    """Whether a graded row's `verdict` is right; None if it is ungradable."""
    return {"right": True, "wrong": False}.get(row["verdict"])


def label_kind(label: bool | float | None) -> str:
    """The name of a label's kind in counts: right or wrong (hard labels), soft, or null."""
    if label is None:
        return "null"
    return "soft" if not isinstance(label, bool) else "right" if label else "wrong"
