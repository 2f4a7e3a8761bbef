"""Problems by the name of their data set."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from itertools import islice
from typing import Any

from qstep.data import Unanswerable, read_problems
from qstep.runs.progress import reasons_text
from qstep.tasks.options import ProblemOptions
from qstep.tasks.procedural import with_options
from qstep.tasks.task import Tasks, is_generated
from qstep.types import Problem, Prompt

_log = logging.getLogger(__name__)


def load_problems(
    dataset_name: str,
    *,
    options: Mapping[str, Any] | None = None,
    split: str = "train",
    limit: int | None = None,
    offset: int = 0,
    seed: int = 0,
    instruction: str | None = None,
    conversational: bool = False,
    task: str = "math",
    unanswerable: Unanswerable = "refuse",
    left_out: Counter[str] | None = None,
    columns: Mapping[str, str] | None = None,
) -> list[Problem]:
    """Problems `offset` to `offset + limit` (or to the end) of a data set, ids `<name>/<split>/<index>`.

    Args:
        dataset_name: `miniature`; `reasoning_gym:<family>`; `module:object`, the user's own task; a .jsonl,
            .json (a list) or .parquet file; or a Hub id, followed by a colon and its configuration if it has several
            (`openai/gsm8k:main`).
        options: parameters of a reasoning_gym family.
        split: which split. A file has no splits; `train` or `test` then only becomes part of the ids. Splits of
            generated problems are disjoint for all seeds.
        limit: maximum number of problems. Generated data sets are endless and need a limit.
        offset: how many problems to skip.
        seed: seed of generated problems. Files keep their order.
        instruction: text put after the question and a blank line.
        conversational: turn a prompt that is a string into a user's message.
        task: the task that grades the problems of a file or of the Hub.
        unanswerable: whether a problem of a file or the Hub is refused or dropped if it has no answer.
        left_out: counts the dropped problems, by reason.
        columns: columns of a file or the Hub, as `qstep.data.read_problems` takes them.

    Raises:
        RowError: a row of a file lacks a column, or it is blank.
        ValueError: the data set is unknown, no problem is left, or an argument does not suit the data set.
    """
    asked = ProblemOptions(
        dataset_name=dataset_name,
        dataset_options=None if options is None else dict(options),
        split=split,
        num_problems=limit,
        offset=offset,
        data_seed=seed,
        instruction=instruction,
        conversational=conversational,
        task=task,
        unanswerable=unanswerable,
        columns=None if columns is None else dict(columns),
    )
    return problems_of(asked, Counter() if left_out is None else left_out)


def problems_of(asked: ProblemOptions, left_out: Counter[str]) -> list[Problem]:
    """The problems that the options name. `left_out` counts the dropped ones. Raises as `load_problems` does."""
    name, split, offset, limit = asked.dataset_name, asked.split, asked.offset, asked.num_problems
    if asked.dataset_options:
        name = with_options(name, asked.dataset_options)
    if is_generated(name):
        found = Tasks(name).named(name).problems(split, seed=asked.data_seed, offset=offset, limit=limit)
        chosen = [replace(problem, task=name) for problem in found]
    else:
        stop = None if limit is None else offset + limit
        read = read_problems(
            name,
            split=split,
            task=asked.task,
            unanswerable=asked.unanswerable,
            left_out=left_out,
            columns=asked.columns,
        )
        chosen = list(islice(read, offset, stop))
        _check_repeated(name, chosen, Tasks(asked.task))
    if not chosen:
        after = f" after --offset {offset}. Give a smaller one" if offset else ""
        if left_out:
            after += (
                f". Left out: {reasons_text(left_out)}. If a column has the answers, name it with --columns.gold COLUMN"
            )
        raise ValueError(f"{name} has no problem{after}")
    return [
        replace(problem, prompt=worded(problem.prompt, asked.instruction, asked.conversational)) for problem in chosen
    ]


def _check_repeated(name: str, problems: list[Problem], tasks: Tasks) -> None:
    """Warns of questions that are asked again. Raises ValueError if their answers differ."""
    first: dict[str, Problem] = {}
    for problem in problems:
        other = first.setdefault(repr(problem.prompt), problem)
        if problem.gold == other.gold or tasks.named(problem.task).same_answer(other.gold, problem.gold):
            continue
        raise ValueError(
            f"{name}: {other.id} and {problem.id} ask the same, but their answers are {other.gold!r} and "
            f"{problem.gold!r}. Correct one of them, or drop it"
        )
    if again := len(problems) - len(first):
        _log.warning(
            "%s: %d of %d rows ask a question again, and each counts as a problem of its own. Leave repeated rows out "
            "for intervals that are not too narrow",
            *(name, again, len(problems)),
        )


def worded(prompt: Prompt, instruction: str | None, conversational: bool) -> Prompt:
    """A question, then a blank line and the instruction. With `conversational`, a string becomes a user's message."""
    if not isinstance(prompt, str):
        if instruction is None:
            return prompt
        *before, last = prompt
        return [*before, {**last, "content": f"{last['content']}\n\n{instruction}"}]
    text = prompt if instruction is None else f"{prompt}\n\n{instruction}"
    return [{"role": "user", "content": text}] if conversational else text
