"""Reads the user's own data: problems from files and the Hub, and responses that were made elsewhere."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal

from qstep.data.columns import is_conversation
from qstep.data.golds import Answers, Golds, boxed_gold, written_gold
from qstep.data.jsonl import RowError, numbered_rows
from qstep.data.list_cells import with_lists
from qstep.data.messages import plain_prompt, read_messages, split_conversation
from qstep.data.naming import (
    chosen_columns,
    column_of,
    name_in,
    renamed,
    required_column,
    responses_in,
    with_chosen,
)
from qstep.data.rows import check_row, group_key, prompt_id
from qstep.data.sources import Source
from qstep.data.truth import Firsts, refuse_mixed_kinds
from qstep.types import Problem, Row

_NO_ANSWER = "None"

Unanswerable = Literal["refuse", "drop"]
"""What to do with a problem that has no answer."""


def read_problems(
    dataset_name: str,
    *,
    split: str,
    task: str,
    unanswerable: Unanswerable = "refuse",
    left_out: Counter[str] | None = None,
    columns: Mapping[str, str] | None = None,
) -> Iterator[Problem]:
    """The problems of a file or of the Hub, ids `<name>/<split>/<index>`. Of several files, each has its own name.

    Columns have the names of `qstep.data.naming`, such as `question` and `answer`. In an answer of GSM8K's form, the
    gold answer is the part after `####`. A row with only a `solution`, as MATH has, gives the content of its last box,
    and so does one whose answer is null or empty.
    A worked solution is kept as `metadata["solution"]`, without GSM8K's calculator marks. An answer keeps its leading
    zeros (AIME's `025`); grading ignores them. Of a conversation in `messages`, the question is what comes before the
    assistant's last message.

    Args:
        unanswerable: whether to refuse or drop a row whose answer is null, empty or the word None. GSM-Plus marks
            questions without an answer by this word.
        left_out: counts the dropped rows, by reason.
        columns: the file's columns by the names of those that qstep reads, such as `{"answer": "final"}`.

    Raises:
        RowError: a column of a row is missing or blank, has two names, or its problem has no answer.
        ValueError: the file's content does not fit its suffix.
    """
    chosen = chosen_columns(columns)
    source = Source.of(dataset_name, split=split)
    for name, index, line, row in source.named_rows():
        try:
            problem = _problem(source.path, line, row, f"{name}/{split}/{index}", task, chosen)
        except _NoAnswer:
            if unanswerable == "refuse":
                raise
            if left_out is not None:
                left_out["the question has no answer"] += 1
        else:
            yield problem


class _NoAnswer(RowError):
    """A row's question has no answer: its column says None, or has nothing."""


def _problem(path: Path, line: int, written: Row, identifier: str, task: str, chosen: Mapping[str, str]) -> Problem:
    row = _asked(path, line, with_chosen(path, line, written, chosen), chosen)
    question = required_column(path, line, row, "prompt", chosen)
    prompt = row[question]
    gold, solution = _gold(path, line, row, chosen)
    try:
        prompt = plain_prompt(prompt, row.get("tools"))
    except ValueError as error:
        raise RowError(path, line, chosen.get(question, question), str(error)) from None
    if not is_conversation(prompt) and not (isinstance(prompt, str) and prompt.strip()):
        raise RowError(
            path, line, chosen.get(question, question), f"is {prompt!r}; give a string or a list of messages"
        )
    metadata = {} if solution is None else {"solution": solution}
    return Problem(identifier, prompt, gold, task, metadata)


def _gold(path: Path, line: int, row: Row, chosen: Mapping[str, str]) -> tuple[str, str | None]:
    """The gold answer, from the last box of a solution if the row has no answer, and the worked solution."""
    column, solution = column_of(path, line, row, "gold", chosen), row.get("solution")
    if column is None and "solution" in row:
        return boxed_gold(path, line, solution), solution
    try:
        column = required_column(path, line, row, "gold", chosen)
    except RowError as error:  # a table has no null in `gold`
        raise _NoAnswer(path, line, error.field, error.problem) from None
    field, answer = chosen.get(column, column), row[column]
    if answer is None or (isinstance(answer, str) and not answer.strip()):
        with suppress(RowError):
            return boxed_gold(path, line, solution), solution
        why = f"is {answer!r}; give the answer as a string or a number, or leave such rows out"
        raise _NoAnswer(path, line, field, f"{why} with --unanswerable drop, which counts them")
    gold, solution = written_gold(path, line, field, answer, solution)
    if gold == _NO_ANSWER:
        why = "is None: the question cannot be answered, so nothing can be graded against it. Leave such rows out"
        raise _NoAnswer(path, line, field, f"{why} with --unanswerable drop, which counts them")
    return gold, solution


def _asked(path: Path, line: int, row: Row, chosen: Mapping[str, str]) -> Row:
    """A row whose question is in a conversation, with the question as its `prompt`."""
    if "messages" not in chosen and ("messages" not in row or column_of(path, line, row, "prompt", chosen) is not None):
        return row
    try:
        messages = read_messages(row["messages"])
        asked = isinstance(messages, list) and bool(messages) and isinstance(messages[-1], dict)
        if asked and messages[-1].get("role") == "user":
            return {**row, "prompt": messages}
        return {**row, "prompt": split_conversation(messages)[0]}
    except ValueError as error:
        raise RowError(path, line, chosen.get("messages", "messages"), str(error)) from None


def read_responses(
    path: Path,
    *,
    task: str = "math",
    offset: int = 0,
    limit: int | None = None,
    need: Sequence[str] = (),
    accept: Callable[[Row], Answers] | None = None,
    columns: Mapping[str, str] | None = None,
) -> Iterator[Row]:
    """The responses of a JSONL file, written by qstep or made elsewhere, as rows (`qstep.data.rows`).

    Columns have the names of `qstep.data.naming`: a question, a gold answer, and a response or a list of responses. In
    an answer of GSM8K's form, the gold answer is the part after `####`, and the complete text is kept as
    `metadata["solution"]`. The response may also be given as steps (`completions`). A conversation in `messages` ends
    with the response. The `id` of a row with several responses is their `problem_id`. If the row has one already, the
    responses get numbers after this `id`. Other columns are kept. Missing ones are added: `problem_id` (from the
    prompt), `sample` (counted in each problem), `id` (`<problem_id>#<sample>`) and `task`.

    Args:
        path: the file.
        task: the task of rows that do not name one.
        offset: how many problems to skip, in order of appearance.
        limit: maximum number of problems.
        need: further columns that a row must have.
        accept: returns the task of a row, which compares gold answers. It raises ValueError for a task that it does
            not know. Without it, gold answers are not compared.

    Raises:
        RowError: a row is bad, two rows have the same id, or two rows of one problem have different gold answers.
    """
    path = Path(path)
    chosen = numbered_responses(
        numbered_rows(path), path, task=task, offset=offset, limit=limit, need=need, accept=accept, columns=columns
    )
    return (row for _, row in chosen)


def numbered_responses(
    rows: Iterable[tuple[int, Row]],
    path: Path,
    *,
    task: str = "math",
    offset: int = 0,
    limit: int | None = None,
    need: Sequence[str] = (),
    accept: Callable[[Row], Answers] | None = None,
    columns: Mapping[str, str] | None = None,
) -> Iterator[tuple[int, Row]]:
    """As `read_responses`, from numbered rows. Each response comes with the number of its row.

    Errors name the rows by `path`.
    """
    chosen = chosen_columns(columns)
    numbers: dict[tuple[str, str], int] = {}
    names: dict[tuple[str, str], str] = {}
    golds = Golds(path)
    prompts: Counter[str] = Counter()
    samples: Counter[tuple[str, str]] = Counter()
    seen: set[str] = set()
    kinds: Firsts = {}
    cells: Firsts = {}
    for line, written in rows:
        raw = with_lists(path, line, written, chosen, cells)
        for given in responses_in(path, line, raw, chosen):
            try:
                own = renamed(path, line, given, raw, need, chosen)
                row = check_row(path, line, own, "prompt-completion", need=need, kinds=kinds)
                refuse_mixed_kinds(path, kinds)
            except RowError as error:
                name = chosen.get(error.field or "") or name_in(given, error.field)
                raise RowError(path, line, name, error.problem) from None
            row.setdefault("problem_id", prompt_id(row))
            key = group_key(row)
            number = numbers.setdefault(key, len(numbers))
            if key not in names:
                problem_id, _ = key
                prompts[problem_id] += 1
                names[key] = problem_id if prompts[problem_id] == 1 else f"{problem_id} (prompt {prompts[problem_id]})"
            row.setdefault("sample", samples[key])
            samples[key] += 1
            row.setdefault("id", f"{names[key]}#{row['sample']}")
            row.setdefault("task", task)
            if accept is not None:
                try:
                    answers = accept(row)
                except ValueError as error:
                    advice = ". If this column says something else, rename or drop it" if "task" in own else ""
                    raise RowError(path, line, "task", f"{error}{advice}") from error
                golds.check(line, row, answers)
            if row["id"] in seen:
                advice = "" if "problem_id" in raw else ". If it names the question, give --columns.problem_id id"
                raise RowError(path, line, "id", f"{row['id']!r} occurs twice; give each row its own id{advice}")
            seen.add(row["id"])
            if offset <= number and (limit is None or number < offset + limit):
                yield line, row
