"""Trains on rows in memory, as the command does on files."""

from __future__ import annotations

from dataclasses import fields
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qstep.trainers.given_rows import Rows


def train(
    method: str, rows: Rows, *, model: str | Path, output_dir: str | Path, eval_rows: Rows | None = None, **options: Any
) -> Path:
    """Trains a process reward model or a policy, as `qstep train METHOD` does. The weights are the same, bit for bit.

    Args:
        method: `pqm`, `bce`, `dqo` or another method that `qstep train --help` lists.
        rows: the rows to learn from: a list of dicts, a `datasets.Dataset`, a pandas `DataFrame` or a JSONL file.
        model: the model to start from, a folder or a Hub id.
        output_dir: the folder to write to. The same call resumes an unfinished run there, and leaves a finished one as
            it is.
        eval_rows: rows to evaluate on during training. The option `eval_strategy` says when.
        options: other options of the command, by name.

    Returns:
        `output_dir`, with the model, its tokenizer, its model card and the log of training.

    Raises:
        TypeError: `rows` is not a table.
        ValueError: the method or an option is unknown, a row is bad, or `output_dir` has another run. The message
            names a row as `rows[12]`.

    Example:
        >>> rows = [{"prompt": "1+2*3=", "completions": ["1+2=3", "3*3=6", "#6"], "labels": [True, False, False]}]
        >>> folder = qstep.train("pqm", rows, model="runs/base", output_dir="runs/new", max_steps=2)
        {'loss': ...}
        {'train_runtime': ...}
        >>> qstep.load_scorer(folder).objective
        'pqm'
    """
    from jsonargparse import ArgumentError

    from qstep.objectives import METHODS
    from qstep.runs.command_line import plainly
    from qstep.runs.near import did_you_mean
    from qstep.stages.commands import COMMANDS
    from qstep.stages.train import TrainInputs, train_on
    from qstep.trainers.given_rows import rows_file

    if method not in METHODS:
        raise ValueError(f"no method {method!r}{did_you_mean(method, METHODS)}: choose one of {', '.join(METHODS)}")
    config_type = METHODS[method].config
    known = {field.name: field for kind in (config_type, TrainInputs) for field in fields(kind) if field.init}
    for name in options.keys() - known.keys():
        raise ValueError(f"{method} has no option {name}{did_you_mean(name, known)}")
    for name, value in options.items():
        if value is None and known[name].default is not None:
            raise ValueError(f"{name} is None: leave it out for its default")
    for name, argument in {"model_name_or_path": "model", "train_file": "rows", "eval_file": "eval_rows"}.items():
        if name in options:
            raise ValueError(f"{name} is not an option here: give {argument}")
    learned = rows_file(rows, "rows")
    evaluated = None if eval_rows is None else rows_file(eval_rows, "eval_rows")
    arguments = {
        "model_name_or_path": str(model),
        "train_file": str(learned.path),
        **({} if evaluated is None else {"eval_file": str(evaluated.path)}),
        "output_dir": None if output_dir is None else str(output_dir),
        **{name: _plain(value) for name, value in options.items()},
    }
    try:
        inputs, config = COMMANDS[f"train {method}"].check(arguments)
    except ArgumentError as error:
        raise ValueError(plainly(str(error), known.keys(), lambda word: "")) from None
    return train_on(method, inputs, config, learned, evaluated)


def _plain(value: Any) -> Any:
    """A value as the command line's options have it: without enums, paths and NumPy's numbers."""
    if isinstance(value, Enum):
        return value.value
    return str(value) if isinstance(value, Path) else value.item() if hasattr(value, "item") else value
