"""Problems of files and of the Hub."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from qstep.data.shards import RowError, numbered_rows
from qstep.types import Problem, Row

_CALCULATOR = re.compile(r"<<[^<>]*>>")
_PROMPT_COLUMNS = ("prompt", "problem", "question")
_GOLD_COLUMNS = ("gold", "answer")
_FILES = (".jsonl", ".json", ".parquet")
_HUB_CONFIG = {"openai/gsm8k": "main"}


def read_problems(dataset_name: str, *, split: str, task: str) -> Iterator[Problem]:
    """The problems of a file or of the Hub, ids `<name>/<split>/<index>`.

    Rows hold `prompt`, `problem` or `question`, and `gold` or `answer`. Of an answer in GSM8K's form the part
    after `####` is the gold answer. A worked solution, without GSM8K's calculator marks, is kept as
    `metadata["solution"]`.

    Raises:
        RowError: a row lacks a column, or it is blank.
        ValueError: the file is not what its name says.
    """
    path = Path(dataset_name)
    if path.suffix in _FILES:
        name, rows = path.stem, _file_rows(path)
    else:
        name, _, config = dataset_name.partition(":")
        rows = enumerate(_hub_rows(name, config or _HUB_CONFIG.get(name), split), 1)
    for index, (line, row) in enumerate(rows):
        yield _problem(path, line, row, f"{name}/{split}/{index}", task)


def _file_rows(path: Path) -> Iterable[tuple[int, Row]]:
    if path.suffix == ".jsonl":
        return numbered_rows(path)
    if path.suffix == ".parquet":
        import datasets

        if not path.is_file():
            raise FileNotFoundError(f"{path} does not exist")
        return enumerate(datasets.Dataset.from_parquet(str(path)), 1)
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError(f"{path}: a .json file of problems is a list of objects; one object a line is .jsonl")
    return enumerate(rows, 1)


def _hub_rows(name: str, config: str | None, split: str) -> Iterable[Row]:
    import datasets

    return datasets.load_dataset(name, config, split=split)


def _problem(path: Path, line: int, row: Row, identifier: str, task: str) -> Problem:
    question = _first(path, line, row, _PROMPT_COLUMNS)
    answer = _first(path, line, row, _GOLD_COLUMNS)
    prompt, gold = row[question], row[answer]
    if isinstance(gold, int | float) and not isinstance(gold, bool):
        gold = str(gold)
    solution = row.get("solution")
    if isinstance(gold, str) and "####" in gold:
        solution = gold
        gold = gold.rpartition("####")[2].replace(",", "")
    if not isinstance(gold, str) or not gold.strip():
        raise RowError(path, line, answer, f"is {row[answer]!r}; give the answer as a text or a number")
    conversation = (
        isinstance(prompt, list)
        and bool(prompt)
        and all(isinstance(message, dict) and isinstance(message.get("content"), str) for message in prompt)
    )
    if not conversation and not (isinstance(prompt, str) and prompt.strip()):
        raise RowError(path, line, question, f"is {prompt!r}; give a text or a list of messages")
    metadata = {"solution": _CALCULATOR.sub("", solution)} if isinstance(solution, str) else {}
    return Problem(identifier, prompt, gold.strip(), task, metadata)


def _first(path: Path, line: int, row: Row, columns: tuple[str, ...]) -> str:
    for column in columns:
        if column in row:
            return column
    raise RowError(path, line, columns[0], f"is missing, and so is {' and '.join(columns[1:])}; found {', '.join(row)}")
