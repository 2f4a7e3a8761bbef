"""Responses whose first wrong step is known, read to judge a scorer by: ProcessBench's form, and stepwise rows."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qstep.data import RowError, canonical_json, check_row, group_key, numbered_rows
from qstep.stages.inputs import finished
from qstep.types import Prompt, Row

if TYPE_CHECKING:
    from qstep.scoring import Scorer

UNKNOWN_ERROR = "its labels leave open which step is the first wrong one"


@dataclass(frozen=True)
class StepBenchmark:
    """The rows of one subset, each with `id`, `prompt`, `completions` and `first_error` (-1 for none), in order.

    `named` holds the ids that the file itself gives, `left_out` counts the other rows by reason.
    """

    name: str
    source: str
    rows: list[Row] = field(default_factory=list)
    named: set[str] = field(default_factory=set)
    left_out: Counter[str] = field(default_factory=Counter)

    def add(self, line: int, row: Row, worded: Callable[[str], Prompt]) -> bool:
        """Takes a row as it lies in a file; whether it is in ProcessBench's form, whose prompt is yet to be worded.

        Raises RowError, naming field and line, for a bad row or an id that is there already.
        """
        path = Path(self.source)
        raw = "problem" in row and "steps" in row
        if raw:
            row = _processbench(path, line, row, worded)
        else:
            row = check_row(path, line, row, "stepwise")
            row["first_error"] = _first_error(path, line, row)
        if "id" in row:
            if row["id"] in self.named:
                raise RowError(path, line, "id", f"{row['id']!r} is there twice; give each row an id of its own")
            self.named.add(row["id"])
        row.setdefault("id", f"{self.name}, line {line}")
        if row["first_error"] is None:
            self.left_out[UNKNOWN_ERROR] += 1
        else:
            self.rows.append(row)
        return raw

    def separators(self, scorer: Scorer) -> dict[str, int]:
        """How the given steps differ from what the scorer was taught: each is scored as one step all the same.

        Rows that were `split_at_another` separator than the scorer's, rows that do not say at which, and steps (and
        rows with such) that contain its text, where a response split by it would have had several steps.
        """
        wanted = scorer.step_separator
        split_at = [row.get("step_separator") for row in self.rows]
        inside = [sum(wanted in step for step in row["completions"]) for row in self.rows]
        return {
            "rows_split_at_another": sum(at not in (None, wanted) for at in split_at),
            "rows_that_do_not_say": split_at.count(None),
            "rows_with_a_separator_in_a_step": sum(count > 0 for count in inside),
            "steps_with_a_separator": sum(inside),
        }


def read_benchmarks(
    files: Mapping[str, Path],
    dataset_name: str | None = None,
    *,
    instruction: str | None = None,
    conversational: bool = False,
) -> dict[str, StepBenchmark]:
    """The subsets by name: `.json` (a list) and `.jsonl` files, in ProcessBench's form or stepwise.

    Before them the splits of a Hub id, or of a folder of such files. `instruction` and `conversational` word the
    problems of ProcessBench's form; stepwise rows have their prompts.

    Raises:
        RowError: a row is bad.
        ValueError: a file is unfinished or has no row of which the first error is known, or the wording has no effect.
    """
    from qstep.tasks import worded

    sources: dict[str, tuple[str, Iterable[tuple[int, Row]]]] = {}
    if dataset_name is not None:
        import datasets

        splits = datasets.load_dataset(dataset_name)
        sources |= {str(name): (f"{dataset_name}:{name}", enumerate(rows, 1)) for name, rows in splits.items()}
    for name, path in files.items():
        if name in sources:
            raise ValueError(f"{path} and a split of {dataset_name} are both called {name!r}: rename one")
        sources[name] = str(path), _file_rows(path)
    some_raw, found = False, {}
    for name, (source, rows) in sources.items():
        found[name] = StepBenchmark(name, source)
        for line, row in rows:
            raw = found[name].add(line, row, lambda problem: worded(problem, instruction, conversational))
            some_raw = some_raw or raw
        if not found[name].rows:
            left_out = f"; left out: {dict(found[name].left_out)}" if found[name].left_out else ""
            raise ValueError(f"{source} has no row of which the first wrong step is known{left_out}")
    if not some_raw and (instruction is not None or conversational):
        option = "conversational" if conversational else "instruction"
        raise ValueError(f"nothing reads --{option}: all rows have prompts, which are taken as they are")
    return found


def _file_rows(path: Path) -> Iterator[tuple[int, Row]]:
    if path.suffix == ".jsonl":
        finished(path)
        yield from numbered_rows(path)
        return
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError(f"{path}: a .json file of responses is a list of objects; one object a line is .jsonl")
    yield from enumerate(rows, 1)


def _processbench(path: Path, line: int, row: Row, worded: Callable[[str], Prompt]) -> Row:
    """A row of ProcessBench (arXiv 2412.06559) with this package's names. A blank step is a step."""
    problem, steps, label = row["problem"], row["steps"], row.get("label")
    if not isinstance(problem, str) or not problem.strip():
        raise RowError(path, line, "problem", f"is {problem!r}; give a text")
    if not isinstance(steps, list) or not steps or not all(isinstance(step, str) for step in steps):
        raise RowError(path, line, "steps", "is no list of texts, of one or more")
    if type(label) is not int or not -1 <= label < len(steps):
        raise RowError(path, line, "label", f"is {label!r}; give the index of the first wrong step, or -1 for none")
    kept = {name: value for name, value in row.items() if name not in ("problem", "steps", "label")}
    named = {"id": str(row["id"])} if "id" in row else {}
    return kept | named | {"prompt": worded(problem), "completions": steps, "first_error": label}


def _first_error(path: Path, line: int, row: Row) -> int | None:
    """The index of the first label that is false, -1 if all are true, else None; checked against `first_error`."""
    labels: Sequence[Any] = row["labels"]
    if any(isinstance(label, float) for label in labels):
        raise RowError(path, line, "labels", "are soft; which step is the first wrong one takes true and false")
    place = labels.index(False) if False in labels else len(labels)
    found = None if None in labels[:place] else place if place < len(labels) else -1
    said = row.get("first_error")  # null says nothing, as where a set's own column is empty for a right response
    if None not in (found, said) and said != found:
        raise RowError(path, line, "first_error", f"is {said!r}, and by its labels it is {found}")
    return found


def shared_rows(judged: StepBenchmark, other: StepBenchmark) -> tuple[list[str], int]:
    """The ids of rows that two benchmarks share, by id or by prompt and steps, and the number of problems they do."""

    def content(row: Row) -> bytes:
        return canonical_json([row["prompt"], row["completions"]])

    theirs = {content(row) for row in other.rows}
    rows = [row["id"] for row in judged.rows if row["id"] in judged.named & other.named or content(row) in theirs]
    problems = {group_key(row)[1] for row in judged.rows} & {group_key(row)[1] for row in other.rows}
    return rows, len(problems)
