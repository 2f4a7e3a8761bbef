"""`qstep convert`: reads a published step-labelled data set, and writes rows for training and scoring."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, Literal

from qstep.data import Neutral, PublishedFormat, Source
from qstep.runs.options import NOT_IN_SETTINGS, OutputFile, ReadIf, Such, check_found, settings_of
from qstep.runs.progress import counts_text
from qstep.runs.runner import Work, in_blocks, write_rows
from qstep.runs.shared_options import StepSeparator
from qstep.runs.stage_file import finished
from qstep.tasks.options import DatasetName, PromptOptions, TaskOptions
from qstep.types import Row

_ROWS_AT_ONCE = 1024


_PRM800K = Such(lambda format: format in ("auto", "prm800k"), "--{name} prm800k")
HUB_ID = Such(lambda name: not Source.of(name).is_file, "a Hub id as --{name}")


@dataclass
class ConvertConfig(PromptOptions, TaskOptions):
    """Converts published step-labelled data to rows that `qstep train` and `qstep score` read.

    Rows that cannot be used are counted by reason, on the terminal and in the output's `.meta.json`. So are the steps
    by label. A row that does not have the format's fields and types is an error, which names file, line and field. Give
    the same `instruction` and `conversational` as in `qstep sample`, so that a scorer reads the prompts it was trained
    on.

    Args:
        dataset_name: a file of rows (JSON, JSON lines, Parquet or CSV), or a Hub id.
        output: the JSONL file to write.
        format: the format of the data set; `auto` recognises it by the columns.
        split: the split of a Hub id, train by default. ProcessBench has gsm8k, math, olympiadbench and omnimath.
        config_name: the configuration of a Hub id that has several.
        step_separator: the string between steps, which training and scoring must share. The default is a blank line for
            processbench and math_aps, and a line break for the other formats.
        separator_inside: what to do with a separator inside a step: replace it by a space and count it (`blank`), or
            fail (`refuse`).
        neutral: how to label PRM800K's neutral rating: `right` as its authors score it, `wrong`, or `null` for no
            label.
    """

    dataset_name: Annotated[DatasetName, NOT_IN_SETTINGS]
    output: OutputFile
    format: Literal["auto", PublishedFormat] = "auto"
    split: Annotated[str | None, NOT_IN_SETTINGS, ReadIf(dataset_name=HUB_ID)] = None
    config_name: Annotated[str | None, NOT_IN_SETTINGS, ReadIf(dataset_name=HUB_ID)] = None
    step_separator: StepSeparator | None = None
    separator_inside: Literal["blank", "refuse"] = "blank"
    neutral: Annotated[Neutral, ReadIf(format=_PRM800K)] = "right"


def convert(config: ConvertConfig) -> Path:
    """Runs the stage and returns its output.

    Raises:
        RowError: a row does not have the format.
        ValueError: the format is not recognised, or no row can be used.
    """
    from qstep.data import Audit, Reading, read_published, recognise

    source = Source.of(config.dataset_name, split=config.split or "train", config=config.config_name)
    format = recognise(source) if config.format == "auto" else config.format
    check_found(config, f"{config.dataset_name} has the format {format}", format=format)
    settings = settings_of(
        config,
        input=finished(source.path) if source.is_file else source.fingerprint(),
        source=[", ".join(source.names()), source.config, source.split],
        format=format,
    )
    reading = Reading(format, config.task, config.step_separator, config.separator_inside, config.neutral)
    audit = Audit()
    shown = 0  # rows that the progress bar has shown as read

    def advance(_: list[Row]) -> int:
        nonlocal shown
        before, shown = shown, audit.rows_read
        return shown - before

    def summary(_: Iterator[Row]) -> dict[str, Any]:
        if not audit.rows_written:
            raise ValueError(f"{config.dataset_name}: no row can be used ({counts_text(audit.summary())})")
        return {"format": format, **audit.summary()}

    def work(done: Collection[str]) -> Work:
        blocks = in_blocks(read_published(source, reading, audit), _ROWS_AT_ONCE)
        rows = (
            [_put(row, config) for row in block] for block in chain(blocks, [[]])
        )  # the empty block completes the bar
        return Work(source.count(), rows, summary, done=0, advance=advance)

    write_rows(config.output, "convert", settings, work)
    return config.output


def _put(row: Row, config: ConvertConfig) -> Row:
    """The row with the instruction and the form of prompt that the options ask for."""
    from qstep.tasks import worded

    return {**row, "prompt": worded(row["prompt"], config.instruction, config.conversational)}
