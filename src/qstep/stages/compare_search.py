"""`qstep compare-search`: graded searches in, their accuracy against the tokens they took out."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qstep.runs.options import OutputFile
from qstep.runs.outputs import is_json_with, refuse_foreign, refuse_overwriting
from qstep.runs.progress import accuracy_text, print_table, say_written
from qstep.runs.provenance import provenance
from qstep.runs.stage_file import finished
from qstep.tasks.options import TaskOptions
from qstep.types import Row

if TYPE_CHECKING:
    from qstep.evals import Searched

_OF_PROBLEM = ("tokens_generated", "tokens_scored", "too_long", "candidates")
"""What a row says of its problem's search; the rest is how it searched."""


@dataclass
class CompareSearchConfig(TaskOptions):
    """Compares searches of the same problems: accuracy against tokens drawn.

    Of each: how often its chosen answer is right, a majority of its candidates, a vote weighted by sigmoid(score), and
    any of them; the tokens drawn and scored for a problem. Searches of one `token_budget`, or without one of one
    `width`, are compared in pairs, problem by problem.

    Args:
        inputs: files of `qstep search`, graded by `qstep grade`, by name:
            `--inputs.beam_400 beam.jsonl --inputs.best_of_n_400 best.jsonl`. Name the proposed search first.
        output: the JSON file to write, which `qstep report` draws.
        seed: of the bootstrap.
    """

    inputs: dict[str, Path]
    output: OutputFile
    seed: int = 0


def compare_search(config: CompareSearchConfig) -> Path:
    """Computes the report, writes it, prints a table, and returns the output.

    Raises:
        ValueError: a file is no graded search, or holds other problems than the first.
    """
    from qstep.data import write_json
    from qstep.evals import ANSWERS, search_report

    refuse_overwriting(config)
    refuse_foreign("output", config.output, is_json_with("searches", "provenance"))
    if not config.inputs:
        raise ValueError("--inputs names no search: give --inputs.NAME FILE")
    read = {name: _read(path, config.task) for name, path in config.inputs.items()}
    first = next(iter(read))
    problems = list(read[first][1])
    for name, (_, found) in read.items():
        if differ := found.keys() ^ read[first][1].keys():
            raise ValueError(
                f"{config.inputs[name]} and {config.inputs[first]} are searches of other problems (only one has "
                f"{min(differ)[0]!r}): search the same with both"
            )
    measured = search_report(
        {name: [found[problem] for problem in problems] for name, (_, found) in read.items()},
        {name: _budget(how) for name, (how, _) in read.items()},
        seed=config.seed,
    )
    report = {
        "problems": len(problems),
        "searches": {name: read[name][0] | of for name, of in measured["searches"].items()},
        "differences": measured["differences"],
        "provenance": provenance(asdict(config)),
    }
    write_json(config.output, report)
    print_table(
        "accuracy of searches, 95 % intervals, and tokens a problem",
        ["", "drawn", "scored", *ANSWERS],
        [
            [name, *(f"{of[kind]['mean']:.0f}" for kind in _OF_PROBLEM[:2]), *(accuracy_text(of[a]) for a in ANSWERS)]
            for name, of in report["searches"].items()
        ],
    )
    say_written(config.output, {"problems": len(problems)})
    return config.output


def _budget(how: Row) -> tuple[str, int]:
    name = "width" if how["token_budget"] is None else "token_budget"
    return name, how[name]


def _read(path: Path, task: str) -> tuple[Row, dict[tuple[str, str], Searched]]:
    """How a file's rows were searched, and what was found for each problem."""
    from qstep.data import group_key, judged_right, read_groups
    from qstep.evals import Searched
    from qstep.tasks import Tasks, answer_classes_of

    finished(path)
    how: dict[str, Any] = {}
    found: dict[tuple[str, str], Searched] = {}
    for rows in read_groups(_checked(path, task)):
        spent = {name: rows[0]["search"][name] for name in _OF_PROBLEM}
        of_rows = {name: value for name, value in rows[0]["search"].items() if name not in spent}
        chosen = [i for i, row in enumerate(rows) if row["chosen"]]
        problem = f"{path}: problem {rows[0]['problem_id']!r}"
        if len(rows) != spent["candidates"] or len(chosen) != 1:
            raise ValueError(
                f"{problem} has {len(rows)} rows, {len(chosen)} of them chosen; its search wrote "
                f"{spent['candidates']} and chose one: give the rows as `qstep search` wrote them, graded"
            )
        if (how := how or of_rows) != of_rows:
            raise ValueError(f"{problem} was searched by {of_rows}, others by {how}: give each a file of its own")
        found[group_key(rows[0])] = Searched(
            [judged_right(row) for row in rows],
            answer_classes_of(rows, Tasks(task)),
            [-math.inf if row["score"] is None else row["score"] for row in rows],
            chosen[0],
            rows[chosen[0]]["finish_reason"] != "stop",
            spent["tokens_generated"],
            spent["tokens_scored"],
        )
    if not found:
        raise ValueError(f"{path} has no rows")
    return how, found


def _checked(path: Path, task: str) -> Iterator[Row]:
    """The rows of a graded search; ValueError, naming the row, where one is not."""
    from qstep.data import read_responses

    for row in read_responses(path, task=task):
        for column, command in (("search", "search"), ("chosen", "search"), ("verdict", "grade")):
            if column not in row:
                raise ValueError(f"{path}: row {row['id']!r} has no {column}: run `qstep {command}` first")
        yield row
