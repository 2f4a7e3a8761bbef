"""Problems of the embedded task, of files, of the Hub, and of procedural generators."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, cast

from qstep.data import miniature
from qstep.data.shards import RowError, numbered_rows
from qstep.data.tasks import REASONING_GYM, verifier
from qstep.types import Problem, Prompt, Row

_CALCULATOR = re.compile(r"<<[^<>]*>>")
_PROMPT_COLUMNS = ("prompt", "problem", "question")
_GOLD_COLUMNS = ("gold", "answer")
_FILES = (".jsonl", ".json", ".parquet")
_HUB_CONFIG = {"openai/gsm8k": "main"}
_BUCKETS: Mapping[str, range] = {"train": range(8), "validation": range(8, 9), "test": range(9, 10)}
_BLOCK = 500
"""Procedural problems drawn at a time."""


def load_problems(
    dataset_name: str,
    *,
    split: str = "train",
    limit: int | None = None,
    offset: int = 0,
    seed: int = 0,
    instruction: str | None = None,
    conversational: bool = False,
) -> list[Problem]:
    """Problems `offset` to `offset + limit` (or to the end) of a data set, ids `<name>/<split>/<index>`.

    Rows of files and Hub data sets hold `prompt`, `problem` or `question`, and `gold` or `answer`. Of an
    answer in GSM8K's form the part after `####` is the gold answer. A worked solution, without GSM8K's
    calculator marks, is kept as `metadata["solution"]`.

    Args:
        dataset_name: `miniature`; `reasoning_gym:<task>`; a .jsonl, .json (a list) or .parquet file; or a Hub
            id, with its configuration after a colon where it needs one (`openai/gsm8k:main`).
        split: which split; for a file only a name. Splits of generated problems are disjoint, whatever the
            seeds.
        limit: at most as many problems; generated data sets are endless and need one.
        offset: how many problems to skip.
        seed: of generated problems; files keep their order.
        instruction: put after the question, behind a blank line.
        conversational: makes a text prompt the one message of a user.

    Raises:
        RowError: a row lacks a column, or it is blank.
        ValueError: the data set is unknown, no problem is left, or an argument does not suit the data set.
    """
    if offset < 0 or (limit is not None and limit < 1):
        raise ValueError(f"offset {offset} must be at least 0 and limit {limit} at least 1")
    generated = dataset_name.startswith(REASONING_GYM)
    if limit is None and (generated or dataset_name == "miniature"):
        raise ValueError(f"{dataset_name} is endless: say how many problems you want")
    if dataset_name == "miniature":
        if instruction is not None or conversational:
            raise ValueError("miniature takes no instruction and no conversation: its vocabulary has neither")
        return miniature.problems(cast(miniature.Split, split), limit or 0, seed, offset)
    problems = _generated(dataset_name, split, seed) if generated else _read(dataset_name, split)
    chosen = [
        Problem(
            problem.id,
            _worded(problem.prompt, instruction, conversational),
            problem.gold,
            problem.task,
            problem.metadata,
        )
        for problem in islice(problems, offset, None if limit is None else offset + limit)
    ]
    if not chosen:
        raise ValueError(f"{dataset_name} has no problem from number {offset} on")
    return chosen


def _worded(prompt: Prompt, instruction: str | None, conversational: bool) -> Prompt:
    if not isinstance(prompt, str):
        if instruction is None:
            return prompt
        *before, last = prompt
        return [*before, {**last, "content": f"{last['content']}\n\n{instruction}"}]
    text = prompt if instruction is None else f"{prompt}\n\n{instruction}"
    return [{"role": "user", "content": text}] if conversational else text


def _read(dataset_name: str, split: str) -> Iterator[Problem]:
    path = Path(dataset_name)
    if path.suffix in _FILES:
        name, rows = path.stem, _file_rows(path)
    else:
        name, _, config = dataset_name.partition(":")
        rows = enumerate(_hub_rows(name, config or _HUB_CONFIG.get(name), split), 1)
    for index, (line, row) in enumerate(rows):
        yield _problem(path, line, row, f"{name}/{split}/{index}")


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


def _problem(path: Path, line: int, row: Row, identifier: str) -> Problem:
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
    return Problem(identifier, prompt, gold.strip(), "math", metadata)


def _first(path: Path, line: int, row: Row, columns: tuple[str, ...]) -> str:
    for column in columns:
        if column in row:
            return column
    raise RowError(path, line, columns[0], f"is missing, and so is {' and '.join(columns[1:])}; found {', '.join(row)}")


def _generated(dataset_name: str, split: str, seed: int) -> Iterator[Problem]:
    """Distinct problems of a reasoning_gym task without end; a question's hash decides its split."""
    import reasoning_gym

    if split not in _BUCKETS:
        raise ValueError(f"{dataset_name} has the splits {', '.join(_BUCKETS)}, not {split!r}")
    verifier(dataset_name)  # refuses a task whose answers cannot be checked safely, before any is sampled
    task = dataset_name.removeprefix(REASONING_GYM)
    seen: set[str] = set()
    block = 0
    while True:
        known = len(seen)
        stream = int(_hash(f"{task}/{split}/{seed}/{block}")[:8], 16)
        for entry in reasoning_gym.create_dataset(task, size=_BLOCK, seed=stream):
            question = entry["question"]
            if question in seen or int(_hash(question), 16) % 10 not in _BUCKETS[split]:
                continue
            metadata: dict[str, Any] = {"entry": json.loads(json.dumps(entry))}
            yield Problem(
                f"{dataset_name}/{split}/{seed}/{len(seen)}",
                question,
                str(entry["answer"]),
                dataset_name,
                metadata,
            )
            seen.add(question)
        if len(seen) == known:
            raise ValueError(f"{dataset_name} has only about {known} distinct problems in {split}; ask for fewer")
        block += 1


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
