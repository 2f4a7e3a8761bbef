"""Problems by the name of their data set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from itertools import islice
from typing import Any

from qstep.data import Source, Unanswerable, read_problems
from qstep.tasks.procedural import REASONING_GYM, with_options
from qstep.tasks.task import Tasks, is_generated
from qstep.types import Problem, Prompt

_SPLITS = ("train", "test")
"""The splits that commands use by default."""


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
) -> list[Problem]:
    """Problems `offset` to `offset + limit` (or to the end) of a data set, ids `<name>/<split>/<index>`.

    Args:
        dataset_name: `miniature`; `reasoning_gym:<family>`; `module:object`, a task of the user's own; a .jsonl,
            .json (a list) or .parquet file; or a Hub id, with its configuration after a colon where it needs one
            (`openai/gsm8k:main`).
        options: parameters of a reasoning_gym family.
        split: which split. A file has none: there `train` or `test` is part of the ids, and nothing else is taken.
            Splits of generated problems are disjoint, whatever the seeds.
        limit: at most as many problems; generated data sets are endless and need one.
        offset: how many problems to skip.
        seed: of generated problems; files keep their order.
        instruction: text put after the question and a blank line.
        conversational: make a prompt that is a string the only message of a user.
        task: who grades the problems of a file or of the Hub.
        unanswerable: whether a problem of a file or the Hub is refused or dropped if its answer is the word None.
        left_out: counts the dropped problems, by reason.

    Raises:
        RowError: a row of a file lacks a column, or it is blank.
        ValueError: the data set is unknown, no problem is left, or an argument does not suit the data set.
    """
    if offset < 0 or (limit is not None and limit < 1):
        raise ValueError(f"offset {offset} must be at least 0 and limit {limit} at least 1")
    if options:
        if not dataset_name.startswith(REASONING_GYM):
            raise ValueError(
                f"--dataset_options have no effect with {dataset_name}: only families of reasoning_gym have "
                "options. Leave them out"
            )
        dataset_name = with_options(dataset_name, options)
    if dataset_name == "miniature" and (instruction is not None or conversational):
        raise ValueError("miniature takes no --instruction and no --conversational true: its vocabulary has no letters")
    if is_generated(dataset_name):
        if unanswerable != "refuse":
            raise ValueError(
                f"--unanswerable {unanswerable} has no effect with {dataset_name}: only files and Hub data sets "
                "read it. Leave it out"
            )
        found = Tasks(dataset_name).named(dataset_name).problems(split, seed=seed, offset=offset, limit=limit)
        chosen = [replace(problem, task=dataset_name) for problem in found]
    else:
        if Source.of(dataset_name).is_file and split not in _SPLITS:
            raise ValueError(
                f"--split {split!r} has no effect: {dataset_name} is a file, which has no splits. Leave --split out"
            )
        stop = None if limit is None else offset + limit
        found = read_problems(dataset_name, split=split, task=task, unanswerable=unanswerable, left_out=left_out)
        chosen = list(islice(found, offset, stop))
    if not chosen:
        raise ValueError(f"{dataset_name} has no problem from number {offset} on")
    return [replace(problem, prompt=worded(problem.prompt, instruction, conversational)) for problem in chosen]


def worded(prompt: Prompt, instruction: str | None, conversational: bool) -> Prompt:
    """A question, then a blank line and the instruction. With `conversational`, a string becomes a user's message."""
    if not isinstance(prompt, str):
        if instruction is None:
            return prompt
        *before, last = prompt
        return [*before, {**last, "content": f"{last['content']}\n\n{instruction}"}]
    text = prompt if instruction is None else f"{prompt}\n\n{instruction}"
    return [{"role": "user", "content": text}] if conversational else text
