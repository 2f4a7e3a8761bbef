"""Reads the user's own data: problems from files and the Hub, and responses that were made elsewhere."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from qstep.data.columns import is_conversation
from qstep.data.golds import Answers, Golds
from qstep.data.jsonl import RowError, count_rows, numbered_rows
from qstep.data.messages import plain_prompt
from qstep.data.rows import check_row, group_key, prompt_id
from qstep.data.sources import Source
from qstep.data.splitters import joint_of
from qstep.types import Problem, Row
from qstep.words import listed

_THOUSANDS = re.compile(r"[-+$]{0,2}\d{1,3}(?:,\d{3})+(?:\.\d+)?")
_CALCULATOR = re.compile(r"<<[^<>]*>>")
_PROMPT_COLUMNS = ("prompt", "problem", "question")
_GOLD_COLUMNS = ("gold", "answer")
_COMPLETION_COLUMNS = ("completion", "response", "text")
_NO_ANSWER = "None"
_BOX = re.compile(r"\\(?:boxed|fbox)\s*(?:\{|([^\s{}\\$]))")
_BRACE = re.compile(r"\\.|[{}]", re.S)

Unanswerable = Literal["refuse", "drop"]
"""What to do with a problem that has no answer."""


def read_problems(
    dataset_name: str,
    *,
    split: str,
    task: str,
    unanswerable: Unanswerable = "refuse",
    left_out: Counter[str] | None = None,
) -> Iterator[Problem]:
    """The problems of a file or of the Hub, ids `<name>/<split>/<index>`.

    Rows have a `prompt`, `problem` or `question`, and a `gold` or `answer`. In an answer of GSM8K's form, the gold
    answer is the part after `####`. A row with only a `solution`, as MATH has, gives the content of its last box. A
    worked solution is kept as `metadata["solution"]`, without GSM8K's calculator marks. An answer keeps its leading
    zeros (AIME's `025`); grading ignores them.

    Args:
        unanswerable: whether to refuse or drop a row whose answer is the word None. GSM-Plus marks questions without
            an answer so.
        left_out: counts the dropped rows, by reason.

    Raises:
        RowError: a column of a row is missing or blank, or its problem has no answer.
        ValueError: the file's content does not fit its suffix.
    """
    source = Source.of(dataset_name, split=split)
    for index, (line, row) in enumerate(source.rows()):
        problem = _problem(source.path, line, row, f"{source.name}/{split}/{index}", task)
        if problem.gold != _NO_ANSWER:
            yield problem
        elif unanswerable == "refuse":
            raise RowError(
                source.path,
                line,
                _first(source.path, line, row, _GOLD_COLUMNS),
                "is None: the question cannot be answered, so nothing can be graded against it. Leave such rows out "
                "with --unanswerable drop, which counts them",
            )
        elif left_out is not None:
            left_out["the question has no answer"] += 1


def _problem(path: Path, line: int, row: Row, identifier: str, task: str) -> Problem:
    question = _first(path, line, row, _PROMPT_COLUMNS)
    prompt = row[question]
    if "solution" in row and not {*_GOLD_COLUMNS} & row.keys():
        gold, solution = _boxed(path, line, row["solution"]), row["solution"]
    else:
        answer = _first(path, line, row, _GOLD_COLUMNS)
        gold, solution = _gold(path, line, answer, row[answer], row.get("solution"))
    try:
        prompt = plain_prompt(prompt, row.get("tools"))
    except ValueError as error:
        raise RowError(path, line, question, str(error)) from None
    if not is_conversation(prompt) and not (isinstance(prompt, str) and prompt.strip()):
        raise RowError(path, line, question, f"is {prompt!r}; give a string or a list of messages")
    metadata = {} if solution is None else {"solution": solution}
    return Problem(identifier, prompt, gold, task, metadata)


def _gold(path: Path, line: int, column: str, answer: Any, solution: Any = None) -> tuple[str, str | None]:
    """The gold answer and the worked solution, if there is one."""
    gold = str(answer) if isinstance(answer, int | float) and not isinstance(answer, bool) else answer
    if isinstance(gold, str) and "####" in gold:
        solution, gold = gold, gold.rpartition("####")[2].strip()
        gold = gold.replace(",", "") if _THOUSANDS.fullmatch(gold) else gold
    if not isinstance(gold, str) or not gold.strip():
        raise RowError(path, line, column, f"is {answer!r}; give the answer as a string or a number")
    return gold.strip(), _CALCULATOR.sub("", solution) if isinstance(solution, str) else None


def _boxed(path: Path, line: int, solution: Any) -> str:
    """The content of a solution's last box, up to the matching brace."""
    boxes = [*_BOX.finditer(solution)] if isinstance(solution, str) else []
    if not boxes:
        raise RowError(path, line, "solution", "has no \\boxed{...}; give the answer in a column 'answer'")
    box = boxes[-1]
    if box[1]:  # TeX's argument without braces is one character
        return box[1]
    level = 1
    for brace in _BRACE.finditer(solution, box.end()):
        level += (brace[0] == "{") - (brace[0] == "}")
        if level == 0:
            if content := solution[box.end() : brace.start()].strip():
                return content
            break
    raise RowError(path, line, "solution", "ends with a box that is empty or not closed; give a column 'answer'")


def read_responses(
    path: Path,
    *,
    task: str = "math",
    offset: int = 0,
    limit: int | None = None,
    need: Sequence[str] = (),
    accept: Callable[[Row], Answers] | None = None,
) -> Iterator[Row]:
    """The responses of a JSONL file, written by qstep or made elsewhere, as rows (`qstep.data.rows`).

    The question may be called `prompt`, `problem` or `question`. The gold answer may be called `gold` or `answer`; in
    GSM8K's form it is the part after `####`, and the complete text is kept as `metadata["solution"]`. The response may
    be called `completion`, `response` or `text`, or be given as steps (`completions`). A row with a list `responses`
    has several responses to its question, as strings or objects. If it has no `problem_id`, its `id` is used. Other
    columns are kept. Missing ones are added: `problem_id` (from the prompt), `sample` (counted in each problem), `id`
    (`<problem_id>#<sample>`) and `task`.

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
        numbered_rows(path), path, task=task, offset=offset, limit=limit, need=need, accept=accept
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
) -> Iterator[tuple[int, Row]]:
    """As `read_responses`, from numbered rows. Each response comes with the number of its row.

    Errors name the rows by `path`.
    """
    numbers: dict[tuple[str, str], int] = {}
    names: dict[tuple[str, str], str] = {}
    golds = Golds(path)
    prompts: Counter[str] = Counter()
    samples: Counter[tuple[str, str]] = Counter()
    seen: set[str] = set()
    for line, raw in rows:
        for given in _flat(path, line, raw):
            try:
                row = check_row(path, line, _renamed(path, line, given, raw, need), "prompt-completion", need=need)
            except RowError as error:
                raise RowError(path, line, _name_in(given, error.field), error.problem) from None
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
                    raise RowError(path, line, "task", str(error)) from error
                golds.check(line, row, answers)
            if row["id"] in seen:
                raise RowError(path, line, "id", f"{row['id']!r} occurs twice; give each row its own id")
            seen.add(row["id"])
            if offset <= number and (limit is None or number < offset + limit):
                yield line, row


def count_responses(path: Path) -> int:
    """The number of responses in a file, including nested ones."""
    _, first = next(iter(numbered_rows(path)), (0, {}))
    if "responses" not in first:
        return count_rows(path)
    return sum(len(row["responses"]) if isinstance(row.get("responses"), list) else 1 for _, row in numbered_rows(path))


def _flat(path: Path, line: int, row: Row) -> Iterator[Row]:
    if "responses" not in row:
        yield row
        return
    shared = {name: value for name, value in row.items() if name != "responses"}
    if not isinstance(row["responses"], list):
        raise RowError(
            path, line, "responses", "is not a list; give the responses as strings, or as objects with a 'text'"
        )
    if "id" in shared and "problem_id" not in shared:  # the question's, not that of each response
        shared["problem_id"] = shared.pop("id")
    for response in row["responses"]:
        if not isinstance(response, str | dict):
            raise RowError(path, line, "responses", f"has {response!r}; give a string, or an object with a 'text'")
        yield {**shared, **({"text": response} if isinstance(response, str) else response)}


def _renamed(path: Path, line: int, row: Row, written: Row, need: Sequence[str]) -> Row:
    """The row with this package's names for question, gold answer and response, and with ids as strings.

    `written` is the row of the file: this one, or the one whose `responses` it is from.
    """
    row = dict(row)

    def rename(columns: Sequence[str]) -> None:
        column = _first(path, line, row, columns, written)
        if column != columns[0]:
            row[columns[0]] = row.pop(column)

    for column in ("id", "problem_id"):
        if type(row.get(column)) is int:
            row[column] = str(row[column])
    rename(_PROMPT_COLUMNS)
    if "completion" not in row and _are_texts(row.get("completions")):
        try:
            row["completion"] = joint_of(row.get("step_separator", "\n")).join(row["completions"])
        except ValueError as error:
            raise RowError(
                path, line, "completion", f"is missing, and {error}. Give the text that the steps were cut from"
            ) from None
    rename(_COMPLETION_COLUMNS)
    graded = "verdict" in row  # its answer is the model's
    if "gold" in row or (not graded and ("answer" in row or "gold" in need)):
        rename(_GOLD_COLUMNS)
        row["gold"], solution = _gold(path, line, "gold", row["gold"])
        if solution is not None and isinstance(row.setdefault("metadata", {}), dict):
            row["metadata"] = {"solution": solution, **row["metadata"]}
    return row


def _name_in(row: Row, column: str | None) -> str | None:
    """The row's own name for one of this package's columns."""
    for columns in (_PROMPT_COLUMNS, _GOLD_COLUMNS, _COMPLETION_COLUMNS):
        if column == columns[0]:
            return next((name for name in columns if name in row), column)
    return column


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _first(path: Path, line: int, row: Row, columns: Sequence[str], written: Row | None = None) -> str:
    """The first of `columns` that the row has. `written` is the row of the file, if that is another one."""
    for column in columns:
        if column in row:
            return column
    others = [*columns[1:], *(["responses"] if columns is _COMPLETION_COLUMNS else [])]
    found = ", ".join(row if written is None else written)
    missing = f"is missing, and so {'is' if len(others) == 1 else 'are'} {listed([repr(name) for name in others])}"
    raise RowError(path, line, columns[0], f"{missing}. The row has {found or 'no columns'}")
