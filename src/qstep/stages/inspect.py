"""`qstep inspect`: Q, V, advantage and log-ratio of every token and step of some responses."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from qstep.runs.dry_run import stop_dry_run
from qstep.runs.fingerprints import model_fingerprint
from qstep.runs.options import Bounds, Check, NotInSettings, OutputFile, ReadIf, settings_of
from qstep.runs.outputs import is_page, refuse_foreign
from qstep.runs.progress import print_result, print_table, say, say_written
from qstep.runs.runner import Work, write_rows
from qstep.runs.shared_options import DeviceOptions, ModelName, RowsInput, StepSeparator
from qstep.runs.stage_file import finished
from qstep.tasks.options import ColumnOptions
from qstep.types import Row

if TYPE_CHECKING:
    from qstep.scoring.token_values import TokenValues

_FIRST = 5
"""The number of responses that are read if none are chosen."""
_NUMBERS = ("log_ratio", "advantage", "value", "q")


def _ranges(option: str, value: str) -> list[range]:
    """The numbers that `1,5-8` names. Raises ValueError for anything else."""
    ranges = []
    for part in value.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", part)
        if match is None or int(match[1]) < 1 or int(match[2] or match[1]) < int(match[1]):
            raise ValueError(f"--{option} {value} is not a list of numbers, counted from 1: give for example 1,5-8")
        ranges.append(range(int(match[1]), int(match[2] or match[1]) + 1))
    return ranges


@dataclass(kw_only=True)
class InspectConfig(ColumnOptions, DeviceOptions):
    """Shows Q, V, advantage and log-ratio of every token and step of some responses, so that one sees where V falls.

    The log-ratio is log pi/pi_ref. The advantage is beta times it, and Q is the advantage plus V of the state before
    the token. A policy without a value function has no V and no Q. In DRO, V is that of the prompt.

    Args:
        model_name_or_path: the policy: a folder of `qstep train dqo` or `dro`, with V, or any causal language model.
        reference: the reference model, or `uniform`. The default is the model that the training began with.
        input: rows with responses, in the columns that `qstep grade` reads.
        ids: the id of a row, or a list of ids. The default is the first five responses.
        rows: the numbers of responses in the file, counted from 1, such as `1,5-8`.
        format: a `table` in the terminal, `jsonl`, or a page in `html` on which the colour of a token shows V.
        output: the file to write, for jsonl and html.
        beta: the factor on the log-ratio. The default is the one of the training.
        step_separator: the string between steps, or the `split:<name>` that cut them, for rows without steps.
    """

    model_name_or_path: ModelName
    input: RowsInput
    reference: ModelName | None = None
    ids: list[str | int] | str | None = None
    rows: Annotated[str | None, Check(_ranges)] = None
    format: Annotated[Literal["table", "jsonl", "html"], NotInSettings()] = "table"
    output: Annotated[OutputFile | None, ReadIf(format=("jsonl", "html"))] = None
    beta: Annotated[float | None, Bounds(above=0)] = None
    step_separator: StepSeparator = "\n"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.ids and self.rows:
            raise ValueError("--ids and --rows both choose responses: remove one of them")
        if self.format != "table" and self.output is None:
            raise ValueError(f"--format {self.format} needs --output, the file to write")


def inspect(config: InspectConfig) -> Path | None:
    """Runs the stage and returns its output, if it writes one.

    Raises:
        ValueError: a chosen row is not in the file, the reference is not known, or a row's steps are not those of its
            response.
    """
    from qstep.report.inspection import render_inspection

    if config.format == "jsonl":
        assert config.output is not None
        models = {"model": model_fingerprint(config.model_name_or_path)}
        if config.reference not in (None, "uniform"):
            models["reference_model"] = model_fingerprint(config.reference)
        settings = settings_of(config, input=finished(config.input), **models)
        write_rows(config.output, "inspect", settings, lambda done: _work(config, done))
    elif config.format == "html":
        assert config.output is not None
        refuse_foreign("output", config.output, is_page)
        stop_dry_run(config.output)
        found = list(_inspected(config, _chosen(config)))
        render_inspection(found, Path(config.model_name_or_path).name, config.output)
        say_written(config.output, {"responses": len(found)})
    else:
        for row in _inspected(config, _chosen(config)):
            _print(row)
    return config.output


def _work(config: InspectConfig, done: Collection[str]) -> Work:
    rows = _chosen(config)
    missing = [row for row in rows if row["id"] not in done]
    return Work(len(rows), ([row] for row in _inspected(config, missing)), lambda rows: {})


def _inspected(config: InspectConfig, rows: list[Row]) -> Iterator[Row]:
    from qstep.scoring.token_values import TokenValues

    values: TokenValues = TokenValues.load(
        config.model_name_or_path, config.reference, config.beta, device=config.device, dtype=config.dtype
    )
    for row in rows:
        try:
            yield values.of_row(row, config.step_separator)
        except ValueError as error:
            raise ValueError(f"{config.input}, row {row['id']!r}: {error}") from None


def _chosen(config: InspectConfig) -> list[Row]:
    """The chosen rows, in the order of the file. Raises ValueError for one that is not there."""
    from qstep.data import read_responses

    rows = read_responses(config.input, columns=config.columns)
    if config.ids:
        wanted = {*map(str, config.ids if isinstance(config.ids, list) else [config.ids])}
        found = [row for row in rows if row["id"] in wanted]
        missing = sorted(wanted - {row["id"] for row in found})
        if missing:
            raise ValueError(f"{config.input} has no row with the id {', '.join(map(repr, missing))}")
        return found
    if config.rows:
        numbers = {number for chosen in _ranges("rows", config.rows) for number in chosen}
        found = [row for number, row in enumerate(rows, 1) if number in numbers]
        if len(found) < len(numbers):
            raise ValueError(f"{config.input} has fewer than {max(numbers)} responses (--rows {config.rows})")
        return found
    found = list(islice(rows, _FIRST))
    if next(rows, None) is not None:
        say(f"{config.input}: the first {_FIRST} responses are read. Choose others with --ids or --rows")
    if not found:
        raise ValueError(f"{config.input} has no responses")
    return found


def _print(row: Row) -> None:
    """Prints a response: its own numbers, then its steps, then its tokens."""
    known = ((name, row.get(name)) for name in ("beta", *_NUMBERS))
    about = ", ".join(f"{name.replace('_', '-')} {value:.3f}" for name, value in known if value is not None)
    print_result(f"{row['id']}: {about}", markup=False, highlight=False)
    if row["steps"]:
        names = ("tokens", "log_ratio", "advantage", "value", "value_after", "q")
        columns = ["step", *(name.replace("_", " ") for name in names)]
        numbers = ([_cell(step[name]) for name in names] for step in row["steps"])
        texts = (f"{step['step'] + 1}  {_plain(step['text'], most=40)}" for step in row["steps"])
        print_table("Steps", columns, [[text, *cells] for text, cells in zip(texts, numbers, strict=True)])
    columns = ["token", "step", *(name.replace("_", " ") for name in _NUMBERS)]
    print_table("Tokens", columns, [_token_line(token) for token in row["tokens"]])


def _token_line(token: Row) -> list[str]:
    step = "" if token["step"] is None else str(token["step"] + 1)
    return [_plain(token["text"], most=40), step, *(_cell(token.get(name)) for name in _NUMBERS)]


def _cell(value: Any) -> str:
    return "" if value is None else str(value) if isinstance(value, int) else f"{value:+.3f}"


def _plain(text: str, *, most: int) -> str:
    """The beginning of a text on one line, in which a terminal and rich see no commands."""
    from rich.markup import escape

    shown = repr(text)[1:-1]
    return escape(shown if len(shown) <= most else f"{shown[: most - 3]}...")
