"""Grades, scores and labels the rows of a table. The functions are those of the commands, without files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from qstep.api.responses import responses_of
from qstep.data.tables import Table, json_lines, table_like
from qstep.types import Row

if TYPE_CHECKING:
    from qstep.scoring import Scorer

_AT_ONCE = 256


def read_rows(path: str | Path) -> list[Row]:
    """The rows of a file as a list of dicts.

    Args:
        path: a `.jsonl`, `.json`, `.parquet`, `.csv`, `.tsv` or `.arrow` file, also with `.gz` or `.zst`; a folder of
            `Dataset.save_to_disk`; or a Hub id such as `openai/gsm8k`.

    Raises:
        ValueError: the file's content does not fit its name.

    Example:
        >>> qstep.write_rows([{"question": "2 + 3?", "answer": "5"}], "problems.jsonl")
        >>> qstep.read_rows("problems.jsonl")
        [{'question': '2 + 3?', 'answer': '5'}]
    """
    from qstep.data import Source

    if Path(path).is_dir() and not (Path(path) / "dataset_info.json").is_file():
        raise ValueError(f"{path} is a folder: give a file, a folder of Dataset.save_to_disk, or a Hub id")
    return [row for _, row in Source.of(str(path)).rows()]


def write_rows(rows: Iterable[Row], path: str | Path) -> None:
    """Writes rows to a JSONL file, which the commands read. An existing file is replaced.

    Args:
        rows: a list of dicts, a `datasets.Dataset` or a pandas `DataFrame`.
        path: the file. Its name ends in `.jsonl` or `.ndjson`.

    Raises:
        ValueError: the name has another ending, or a row has what JSON cannot hold. The message names the column.

    Example:
        >>> qstep.write_rows([{"question": "2 + 3?", "answer": "5", "response": "#### 5"}], "mine.jsonl")
        >>> print(open("mine.jsonl").read())
        {"question": "2 + 3?", "answer": "5", "response": "#### 5"}
        <BLANKLINE>
    """
    from qstep.data.jsonl import write_whole

    if Path(path).suffix not in (".jsonl", ".ndjson"):
        raise ValueError(f"{path}: write_rows writes JSON lines, so the name must end in .jsonl")
    write_whole(Path(path), json_lines(rows))


def grade(
    rows: Table,
    *,
    task: str = "math",
    grader: str | Callable[..., list[float | None]] | None = None,
    deadline_s: float = 3.0,
    columns: Mapping[str, str] | None = None,
) -> Table:
    """Grades each response against its answer: `right`, `wrong`, or `ungradable`.

    It adds `verdict` and its `reason`, the final `answer` of the response, `label` (True, False or None) and `reward`
    (1.0, 0.0 or None). The reference answer is renamed to `gold`. Answers that need algebra start grading processes,
    at most one for each core. This takes a few seconds the first time.

    Args:
        rows: a list of dicts, a `datasets.Dataset` or a pandas `DataFrame` with a question (`question`, `problem` or
            `prompt`), its answer (`answer` or `gold`) and a response (`response`, `completion` or `text`, or a list of
            `responses`). docs/files.md lists more names. The table is not changed.
        task: the task that grades: `math`, `miniature`, `reasoning_gym:<family>`, or your own, `module:object`.
        grader: a reward function with TRL's signature that grades instead, or its name `module:function`. A reward
            of 1 or more is right, less is wrong, and None is ungradable.
        deadline_s: maximum time for one answer in seconds. After that it is ungradable.
        columns: your column for each name that qstep reads, such as `{"answer": "ground_truth"}`.

    Returns:
        A table of the same kind, with a row for each response.

    Raises:
        TypeError: `rows` is not a table.
        ValueError: a row is bad. The message names the row and the column.

    Example:
        >>> rows = [
        ...     {"question": "2 + 3?", "answer": "5", "response": "2 + 3 = 5, so the answer is 5."},
        ...     {"question": "2 + 3?", "answer": "5", "response": "The answer is 6."},
        ... ]
        >>> [row["verdict"] for row in qstep.grade(rows)]
        ['right', 'wrong']
    """
    from qstep.tasks import Tasks, graded_rows

    tasks = Tasks(task, grader, deadline_s)
    tasks.named(task)
    responses, places = responses_of(rows, task=task, need=("gold",), accept=tasks.of, columns=columns)
    graded: list[Row] = []
    with _progress("grade", len(responses)) as advance:
        for start in range(0, len(responses), _AT_ONCE):
            block = responses[start : start + _AT_ONCE]
            graded += graded_rows(block, tasks)
            advance(len(block))
    return cast(Table, table_like(rows, graded, places))


def score(
    rows: Table,
    scorer: str | Path | Scorer,
    *,
    task: str = "math",
    max_tokens: int = 8192,
    columns: Mapping[str, str] | None = None,
) -> Table:
    """Scores every step of every response with a process reward model.

    It adds `completions` (the steps), `step_separator`, `q_values` (a logit for each step), `step_rewards` (their
    sigmoids) and `score`. The score is made from the Qs by the scorer's rule. It is None for a response without steps.

    Args:
        rows: a list of dicts, a `datasets.Dataset` or a pandas `DataFrame` with a question and a response, as `grade`
            takes them. It is not changed.
        scorer: a scorer from `load_scorer`, or the folder or Hub id of one.
        task: the task of rows that do not name one.
        max_tokens: maximum number of tokens in a batch. More tokens need more memory and may be faster.
        columns: your column for each name that qstep reads, such as `{"answer": "ground_truth"}`.

    Returns:
        A table of the same kind, with a row for each response.

    Raises:
        TypeError: `rows` is not a table.
        ValueError: a row is bad, or longer than the scorer's `max_length`. The message names the row.

    Example:
        >>> rows = [{"question": "1+2*3=", "response": "1+2=3\\n3*3=9\\n#9"}]
        >>> [scored] = qstep.score(rows, "runs/pqm")
        >>> scored["completions"]
        ['1+2=3', '3*3=9', '#9']
        >>> len(scored["q_values"])
        3
    """
    from qstep.data import with_steps
    from qstep.scoring.aggregation import with_scores
    from qstep.scoring.options import warn_of_prompts

    loaded = _scorer(scorer)
    responses, places = responses_of(rows, task=task, columns=columns)
    warn_of_prompts((row["prompt"] for row in responses), loaded, "rows")

    # Errors name a row by its place, since the user may have given no ids.
    named = ({**row, "id": f"rows[{place}]"} for row, place in zip(responses, places, strict=True))
    split = (with_steps(row, loaded.step_separator) for row in named)
    scored: list[Row] = []
    with _progress("score", len(responses)) as advance:
        for batch in loaded.score_rows(split, max_tokens=max_tokens):
            scored += [with_scores(of_row, loaded) for of_row in batch]
            advance(len(batch))
    found = [{**row, "id": response["id"]} for row, response in zip(scored, responses, strict=True)]
    return cast(Table, table_like(rows, found, places))


def annotate_outcome(
    rows: Table, *, step_separator: str = "\n", task: str = "math", columns: Mapping[str, str] | None = None
) -> Table:
    """Labels the steps of graded responses by the outcomes of the problem's responses. It needs no model.

    A step is right (True) if a right response of the problem begins with the same steps up to it. It is wrong (False)
    if an equation in it or before it is false, or if a wrong response that was not cut off ends with it. Otherwise its
    label is None, and losses ignore it. It adds `completions`, `step_separator`, `labels`, `label_source`, `successes`
    and `trials`.

    Args:
        rows: a list of dicts, a `datasets.Dataset` or a pandas `DataFrame` that `grade` returned. It is not changed.
        step_separator: the string between steps, or the name of a splitter, such as `split:line` (docs/steps.md).
        task: the task that checks the steps of rows that do not name one.
        columns: your column for each name that qstep reads, such as `{"answer": "ground_truth"}`.

    Returns:
        A table of the same kind. Responses with the verdict `ungradable` are left out.

    Raises:
        TypeError: `rows` is not a table.
        ValueError: a row is bad or not graded. The message names the row and the column.

    Example:
        >>> rows = [
        ...     {"question": "2 * 3 + 1?", "answer": "7", "response": "2 * 3 = 6\\n6 + 1 = 7\\n#### 7"},
        ...     {"question": "2 * 3 + 1?", "answer": "7", "response": "2 * 3 = 6\\n6 + 1 = 8\\n#### 8"},
        ... ]
        >>> [row["labels"] for row in qstep.annotate_outcome(qstep.grade(rows))]
        [[True, True, True], [True, False, False]]
    """
    from qstep.annotate import OutcomePool, label_by_outcome
    from qstep.data import check_separator
    from qstep.tasks import Tasks

    check_separator("step_separator", step_separator)
    tasks = Tasks(task)
    responses, places = responses_of(rows, task=task, need=("gold", "verdict"), accept=tasks.of, columns=columns)
    pool = OutcomePool.of(responses, step_separator)
    kept = [place for place, row in zip(places, responses, strict=True) if row["verdict"] != "ungradable"]
    labelled = [
        label_by_outcome(row, pool, step_separator, tasks) for row in responses if row["verdict"] != "ungradable"
    ]
    return cast(Table, table_like(rows, labelled, kept))


def _scorer(scorer: str | Path | Scorer) -> Scorer:
    if not isinstance(scorer, str | Path):
        if not hasattr(scorer, "score_rows"):
            raise TypeError(f"scorer is {scorer!r}; give a scorer of load_scorer, a folder or a Hub id")
        return scorer
    from qstep.scoring import load_scorer

    return load_scorer(scorer)


def _progress(description: str, total: int) -> AbstractContextManager[Callable[[int], Any]]:
    """A progress bar in a terminal or a notebook, and nothing elsewhere."""
    from qstep.runs.progress import bar, console

    if console.is_terminal or console.is_jupyter:
        return bar(description, total)
    return nullcontext(lambda done: None)
