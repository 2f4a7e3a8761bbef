"""The names that columns have in users' files, and the choice between two of them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from qstep.data.columns import LISTS, NAMES, RULES, TYPED, typed
from qstep.data.golds import written_gold
from qstep.data.inputs import from_table
from qstep.data.jsonl import RowError, kind_of
from qstep.data.messages import split_conversation, users_turn
from qstep.data.splitters import joint_of
from qstep.types import Row
from qstep.words import counted, listed

OF_EACH = ("finish_reason", "finish_reasons", "pred", "report", "score")
"""Columns that have an entry for each response, if the row has a list of responses."""

_MEANING = {"prompt": "question", "gold": "gold answer", "completion": "response"}
_ADDED = {"problem_id", "sample", "task"}
"""The columns that every row has which this package wrote."""
USER = "user"
"""The name by which a user chooses the text that becomes the user's turn: the prompt as a conversation."""


def chosen_columns(columns: Mapping[str, str] | None) -> dict[str, str]:
    """The file's name for each column that the user chose, by this package's name.

    `user` and `messages` stand for what they are read as: a prompt of one message, and prompt and response.

    Raises ValueError for a column that this package does not read, or a name that is given twice.
    """
    chosen: dict[str, str] = {}
    for name, column in (columns or {}).items():
        own = next((own for own, names in NAMES.items() if name in names), name)
        if own not in {*RULES, *NAMES, "messages", USER}:
            usual = ("question", "answer", "response", "messages", USER)
            others = sorted({*RULES, *(alias for names in NAMES.values() for alias in names)} - {*usual})
            raise ValueError(
                f"--columns.{name}: qstep reads no column of this name. It reads {', '.join([*usual, *others])}"
            )
        if not isinstance(column, str) or not column:
            raise ValueError(f"--columns.{name} is {column!r}; give the name of a column of the file")
        if own in chosen or column in chosen.values():
            raise ValueError(f"--columns.{name} {column}: the column {own!r} or {column!r} is chosen twice. Remove one")
        chosen[own] = column
    if USER in chosen and (other := next((name for name in ("prompt", "messages") if name in chosen), None)):
        raise ValueError(f"--columns.{USER} and --columns.{other} both choose the question. Remove one")
    return chosen


def check_columns(option: str, columns: Mapping[str, str]) -> None:
    """Raises ValueError for columns that cannot be chosen."""
    chosen_columns(columns)


def with_chosen(path: Path, line: int, written: Row, chosen: Mapping[str, str]) -> Row:
    """The row with the chosen columns under this package's names. Raises RowError if it lacks one."""
    row, lacking = _taken(path, line, written, chosen)
    _refuse_lacking(path, line, written, lacking)
    return row


def training_row(path: Path, line: int, written: Row, chosen: Mapping[str, str]) -> Row:
    """A row to train on, under this package's names: the chosen columns, or else those whose names are known.

    In a row that this package wrote, a choice that the row lacks is not needed. So one choice serves a user's training
    file and a graded file for evaluation. A prompt that is text becomes a conversation if it is chosen as `user`.
    `text` is read as the response only if it is chosen, since in other files it has the prompt as well.

    Raises RowError if the row lacks a chosen column, or if two known names have different values.
    """
    ours = written.keys() >= _ADDED
    others = {own: column for own, column in chosen.items() if not (ours and _is_unneeded(written, own, column))}
    row = with_chosen(path, line, written, others) if others else written
    if "messages" in others:
        return _with_turns(path, line, row)
    renames = {_known(path, line, row, own): own for own in ("prompt", "completion") if own not in row}
    return {renames.get(name, name): value for name, value in row.items()}


def _is_unneeded(row: Row, own: str, column: str) -> bool:
    """Whether a row that this package wrote lacks the chosen column, and has its own one.

    The `answer` of a graded row is the model's, not the file's. A conversation has the user's turn already.
    """
    if own == USER and column == "prompt":
        return not isinstance(row.get("prompt"), str)
    has_chosen = column in row and _suits(row, column)
    return not has_chosen and {"messages": "completion", USER: "prompt"}.get(own, own) in row


def _known(path: Path, line: int, row: Row, own: str) -> str | None:
    names = [name for name in NAMES[own] if name in row and name not in (*LISTS, "text") and _suits(row, name)]
    return _only_one(path, line, row, own, names)


def is_chosen(chosen: Collection[str], own: str) -> bool:
    """Whether the user chose what is read as this column."""
    return own in chosen or (own != "gold" and "messages" in chosen) or (own == "prompt" and USER in chosen)


def column_of(path: Path, line: int, row: Row, own: str, chosen: Collection[str]) -> str | None:
    """The row's name for one of this package's columns, None if it has none.

    Raises RowError if two names have different values, and nobody chose between them.
    """
    if is_chosen(chosen, own) or (own in row and row.keys() >= _ADDED):
        return own
    return _only_one(path, line, row, own, [name for name in NAMES[own] if name in row and _suits(row, name)])


def _only_one(path: Path, line: int, row: Row, own: str, names: list[str]) -> str | None:
    """The first of these names that has a value. Raises RowError if another one has a different value."""
    found = [name for name in names if row[name] not in (None, "")] or [n for n in names if row[n] == ""] or names[:1]
    for other in found[1:]:
        if _content(path, line, row, own, other) != _content(path, line, row, own, found[0]):
            raise RowError(
                path,
                line,
                other,
                f"is not the same as {found[0]!r}, and both are read as the {_MEANING[own]}. Choose one with "
                f"--columns.{own} {found[0]} or --columns.{own} {other}, or remove the other",
            )
    return found[0] if found else None


def required_column(
    path: Path, line: int, row: Row, own: str, chosen: Collection[str], written: Row | None = None
) -> str:
    """As `column_of`. Raises RowError if the row has no such column. `written` is the row of the file."""
    if (column := column_of(path, line, row, own, chosen)) is not None:
        return column
    file_row = row if written is None else written
    unsuited = [name for name in NAMES[own] if name in file_row and not _suits(file_row, name)]
    others = [repr(name) for name in NAMES[own][1:] if name not in unsuited]
    missing = f"is missing, and so are {listed(others)}"
    missing += "".join(f"; {name!r} {_why_unsuited(file_row, name)}" for name in unsuited)
    advice = f"If one of them is the {_MEANING[own]}, name it with --columns.{own} COLUMN"
    if "messages" in file_row and own != "gold":
        advice = "Give --columns.messages messages to read question and response from the conversation"
    raise RowError(path, line, own, f"{missing}. The row has {', '.join(file_row) or 'no columns'}. {advice}")


def name_in(row: Row, column: str | None) -> str | None:
    """The row's own name for one of this package's columns, for messages."""
    return next((name for name in NAMES.get(column or "", ()) if name in row and _suits(row, name)), column)


def responses_in(path: Path, line: int, written: Row, chosen: Mapping[str, str]) -> Iterator[Row]:
    """The responses of a row of the file, each as a row with the chosen columns under this package's names."""
    row, lacking = _taken(path, line, written, chosen)
    if "messages" in chosen or ("messages" in row and not _names_in(row)):
        row = _with_turns(path, line, row)
    if (column := _list_in(path, line, row, chosen.keys() - lacking.keys())) is None:
        _refuse_lacking(path, line, written, lacking)
        yield row
        return
    shared = {name: value for name, value in row.items() if name != column}
    if "id" in shared and "problem_id" not in shared:  # the question's, not that of each response
        shared["problem_id"] = shared.pop("id")
    if not row[column]:
        raise RowError(path, line, column, "is an empty list: the row has no response. Leave the row out")
    for number, response in enumerate(row[column]):
        if not isinstance(response, str | dict | list):
            raise RowError(path, line, column, f"has {response!r}; give a string, or an object with a 'text'")
        is_message = isinstance(response, dict) and {"role", "content"} <= response.keys()
        own = {"completion": [response]} if is_message else response
        own = own if isinstance(own, dict) else {"completion": own}
        if "id" in shared and len(row[column]) > 1:
            own = {"id": f"{shared['id']}#{number}", **own}
        of_one = {**_of_one(path, line, shared, number, column, len(row[column])), **own}
        given, still = _taken(path, line, of_one, lacking)
        _refuse_lacking(path, line, written, still)
        yield given


def renamed(path: Path, line: int, row: Row, written: Row, need: Sequence[str], chosen: Collection[str]) -> Row:
    """The row with this package's names for question, gold answer and response, and with ids as strings.

    `written` is the row of the file: this one, or the one with the list of responses that it is from.
    """
    row = dict(row)

    def rename(own: str) -> None:
        column = required_column(path, line, row, own, chosen, written)
        if column != own:
            row[own] = row.pop(column)

    for column in ("id", "problem_id"):
        if type(row.get(column)) is int:
            row[column] = str(row[column])
    rename("prompt")
    response = column_of(path, line, row, "completion", chosen)
    if (response is None or row[response] is None) and _are_texts(row.get("completions")):
        try:
            row["completion"] = joint_of(row.get("step_separator", "\n")).join(row["completions"])
        except ValueError as error:
            raise RowError(
                path, line, "completion", f"is missing, and {error}. Give the text that the steps were cut from"
            ) from None
    rename("completion")
    # A graded row's answer is the model's.
    if column_of(path, line, row, "gold", chosen) is not None or ("gold" in need and "verdict" not in row):
        rename("gold")
        row["gold"], solution = written_gold(path, line, "gold", row["gold"])
        if solution is not None and isinstance(row.setdefault("metadata", {}), dict):
            row["metadata"] = {"solution": solution, **row["metadata"]}
    return row


def _suits(row: Row, name: str) -> bool:
    """Whether a column can be what its name says. Others are kept as the user's own columns."""
    if name == "answer":
        return "verdict" not in row
    if name == "generation" and not isinstance(row[name], str | list):
        return False
    if name in ("gt", "ground_truth", "target"):
        return isinstance(row[name], str | int | float)
    return name not in ("generations", "code") or isinstance(row[name], list)


def _why_unsuited(row: Row, name: str) -> str:
    """Why a column is not what its name says, for a message."""
    if name == "answer":
        return "is the model's answer in a graded row"
    needed = {"generation": "a string or a list of them", "generations": "a list", "code": "a list of responses"}
    return f"is {kind_of(row[name])}, not {needed.get(name, 'a string or a number')}"


def _content(path: Path, line: int, row: Row, own: str, name: str) -> Any:
    """What is compared of a column: its value, or the gold answer that is read from it."""
    return written_gold(path, line, name, row[name])[0] if own == "gold" else row[name]


def _names_in(row: Row) -> bool:
    """Whether a row names its question or its response."""
    return "completions" in row or any(
        name in row and _suits(row, name) for own in ("prompt", "completion") for name in NAMES[own]
    )


def _taken(path: Path, line: int, row: Row, chosen: Mapping[str, str]) -> tuple[Row, dict[str, str]]:
    """The row with those of the chosen columns that it has, and those that it lacks."""
    lacking = {own: column for own, column in chosen.items() if column not in row}
    taken = {column: own for own, column in chosen.items() if column in row}
    replaced = {*map(_read_as, taken.values())} - taken.keys()
    found = {}
    for name, value in row.items():
        if name in taken:
            found[_read_as(taken[name])] = _as_chosen(path, line, taken[name], name, value)
        elif name not in replaced:
            found[name] = value
    return found, lacking


def _read_as(own: str) -> str:
    return "prompt" if own == USER else own


def _as_chosen(path: Path, line: int, own: str, column: str, value: Any) -> Any:
    """The value of a chosen column. A cell of a CSV file is read as one of that column's own name would be."""
    if own == USER:
        try:
            return users_turn(value)
        except ValueError as error:
            raise RowError(path, line, column, str(error)) from None
    is_cell = (isinstance(value, str) and own in TYPED) or (value is None and own == "completion")
    if not (is_cell and from_table(path, line)):
        return value
    return "" if value is None else typed(value)


def _refuse_lacking(path: Path, line: int, written: Row, lacking: Mapping[str, str]) -> None:
    for own, column in lacking.items():
        found = ", ".join(written) or "no columns"
        raise RowError(path, line, column, f"is missing, but --columns.{own} names it. The row has {found}")


def _with_turns(path: Path, line: int, row: Row) -> Row:
    """A row with a conversation in `messages`, divided into question and response."""
    try:
        prompt, completion = split_conversation(row["messages"])
    except ValueError as error:
        raise RowError(path, line, "messages", str(error)) from None
    others = {name: value for name, value in row.items() if name not in ("messages", "prompt", "completion")}
    return {**others, "prompt": prompt, "completion": completion}


def _list_in(path: Path, line: int, row: Row, chosen: Collection[str]) -> str | None:
    """The column with a list of responses, None if the row has one response."""
    column = column_of(path, line, row, "completion", chosen)
    value = row.get(column) if column else None
    if column == "responses" and not isinstance(value, list):
        raise RowError(
            path, line, "responses", "is not a list; give the responses as strings, or as objects with a 'text'"
        )
    if column in LISTS:
        return column
    are_responses = isinstance(value, list) and value and all(map(_is_response, value))
    return column if are_responses else None


def _is_response(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, dict) and "role" not in value)


def _of_one(path: Path, line: int, shared: Row, number: int, column: str, count: int) -> Row:
    """What a row with `count` responses says of one of them."""
    row = dict(shared)
    for name in OF_EACH:
        value = shared.get(name)
        if not isinstance(value, list):
            continue
        if len(value) != count:
            entries = counted(len(value), "entry", "entries")
            raise RowError(path, line, name, f"has {entries}, and {column} has {count}; give one for each")
        # The score of other projects says whether the answer is right.
        is_verdict = name == "score" and isinstance(value[number], bool)
        own = "correct" if is_verdict else "finish_reason" if name == "finish_reasons" else name
        if name == "finish_reasons" and own in shared:
            raise RowError(path, line, name, f"is given in addition to {own!r}; remove one of the two")
        row = {other: held for other, held in row.items() if other != name} | {own: value[number]}
    return row


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)
