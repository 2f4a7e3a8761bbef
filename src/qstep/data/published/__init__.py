"""Published step-labelled data in qstep's row format: a reader for each format, and their common parts.

A reader turns a raw row into qstep's rows, or says why it is not used. Each row has `id`, `problem_id`, `prompt`,
`completions` (the steps), `labels`, `label_source` (the format) and `source` (the data set). It has `gold` if the set
does, and the columns that the reader's docstring names.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, get_args

from qstep.data.columns import shown
from qstep.data.jsonl import RowError
from qstep.data.published.benchmarks import read_bigbench_mistake, read_prmbench, read_processbench
from qstep.data.published.judged import read_mr_gsm8k, read_mrben, read_stepverify
from qstep.data.published.math_aps import read_math_aps
from qstep.data.published.math_shepherd import read_math_shepherd
from qstep.data.published.prm800k import Neutral, read_prm800k
from qstep.data.published.record import LeftOut, Record
from qstep.data.published.stepwise import read_trl_stepwise
from qstep.data.rows import check_row, label_kind
from qstep.data.sources import Source
from qstep.data.steps import first_cut, split_steps, step_regions
from qstep.data.truth import Firsts, refuse_mixed_kinds
from qstep.types import Row
from qstep.words import counted

__all__ = [
    "Audit",
    "Neutral",
    "PublishedFormat",
    "Reading",
    "SeparatorInside",
    "ids_are_made",
    "read_published",
    "recognise",
]

PublishedFormat = Literal[
    "math_shepherd",
    "prm800k",
    "processbench",
    "prmbench",
    "bigbench_mistake",
    "mrben",
    "mr_gsm8k",
    "stepverify",
    "math_aps",
    "trl_stepwise",
]
"""The formats that have a reader."""

SeparatorInside = Literal["blank", "refuse", "keep"]
"""What to do with a separator inside a step. Rows that keep it do not name their separator."""

_REPEATED = "its id is there already"

_OF_TEXT = ("completion", "completion_ids", "logps_behavior")
_OTHER_TEXT = "a completion that the separator does not divide into the steps"

_Reader = Callable[[Record], Iterator[Row | LeftOut]]


@dataclass(frozen=True)
class _Known:
    """A format: the columns that identify it, its reader, the string between its steps, and the origin of its ids.

    Ids are made here, or they are the set's own. Own ids may repeat only if the owners' evaluation takes the first row.
    """

    columns: frozenset[str]
    read: _Reader
    separator: str = "\n"
    ids: Literal["made", "own", "own, the first counts"] = "made"


_KNOWN: dict[PublishedFormat, _Known] = {
    "math_shepherd": _Known(frozenset({"input", "label"}), read_math_shepherd),
    "prm800k": _Known(frozenset({"question", "label", "is_quality_control_question"}), read_prm800k),
    "processbench": _Known(frozenset({"problem", "steps", "label"}), read_processbench, "\n\n", ids="own"),
    "prmbench": _Known(frozenset({"modified_process", "error_steps"}), read_prmbench, ids="own, the first counts"),
    "bigbench_mistake": _Known(frozenset({"input", "steps", "mistake_index"}), read_bigbench_mistake),
    "mrben": _Known(frozenset({"Model_Solution_Steps", "Model_Solution_First_Error_Step"}), read_mrben),
    "mr_gsm8k": _Known(frozenset({"model_output_steps", "model_output_solution_first_error_step"}), read_mr_gsm8k),
    "stepverify": _Known(frozenset({"problem", "steps", "incorrect_index"}), read_stepverify),
    "math_aps": _Known(frozenset({"question", "process", "label"}), read_math_aps, "\n\n"),
    "trl_stepwise": _Known(frozenset({"prompt", "completions", "labels"}), read_trl_stepwise, ids="own"),
}


@dataclass(frozen=True)
class Reading:
    """How to read a data set.

    `format` is the format of its rows, and `task` is the task that grades their answers. `step_separator` is the string
    between steps that rows name; None means the format's own. `separator_inside` replaces a separator inside a step by
    a space, refuses it, or keeps it; rows then name no separator. `neutral` is the label of PRM800K's neutral rating.
    """

    format: PublishedFormat
    task: str = "math"
    step_separator: str | None = None
    separator_inside: SeparatorInside = "blank"
    neutral: Neutral = "right"


@dataclass
class Audit:
    """Counts of what was read, used and written. `rows_read` is the sum of `rows_used` and all `rows_not_used`."""

    rows_read: int = 0
    rows_used: int = 0
    rows_written: int = 0
    rows_not_used: Counter[str] = field(default_factory=Counter)
    parts_not_used: Counter[str] = field(default_factory=Counter)
    steps: Counter[str] = field(default_factory=Counter)
    separators_made_blank: int = 0

    def summary(self) -> dict[str, Any]:
        """The counts by name."""
        return {
            name: dict(sorted((+value).items())) if isinstance(value, Counter) else value
            for name, value in vars(self).items()
        }


def recognise(source: Source) -> PublishedFormat:
    """The format of a set, recognised by the columns of its first row.

    Raises:
        ValueError: the set is empty, or its columns fit no format or several.
    """
    _, row = next(source.rows(), (0, None))
    if row is None:
        raise ValueError(f"{source.path} has no rows")
    fits = [name for name in get_args(PublishedFormat) if _KNOWN[name].columns <= row.keys()]
    if len(fits) != 1:
        columns = f"{source.path}: its columns ({', '.join(row)})"
        if fits:
            raise ValueError(f"{columns} fit {' and '.join(fits)}: name one with `qstep convert --format`")
        raise ValueError(
            f"{columns} fit no format of {', '.join(get_args(PublishedFormat))}. Give your own rows the columns "
            "`prompt`, `completions` (the steps) and `labels`"
        )
    return fits[0]


def ids_are_made(format: PublishedFormat) -> bool:
    """Whether the ids of a format's rows are made from the name of the file, since the set has none."""
    return _KNOWN[format].ids == "made"


def read_published(source: Source, reading: Reading, audit: Audit) -> Iterator[Row]:
    """Yields the rows of a published set in qstep's format (`stepwise`), and counts them in `audit`.

    Memory grows only with the ids that the set itself gives.

    Raises:
        RowError: a row does not have the format, an id is repeated, or a step contains the separator and
            `separator_inside` is `refuse`.
    """
    known = _KNOWN[reading.format]
    read: _Reader = partial(read_prm800k, neutral=reading.neutral) if reading.format == "prm800k" else known.read
    seen: set[str] = set()
    kinds: Firsts = {}
    for name, index, line, raw in source.named_rows():
        where = "/".join(part for part in (name, source.config, source.split) if part)
        record = Record(source.path, line, raw, f"{where}/{index}", where)
        audit.rows_read += 1
        left_out: list[LeftOut] = []
        written = repeated = 0
        for found in read(record):
            if isinstance(found, LeftOut):
                left_out.append(found)
                continue
            row = _finished(record, found, reading, known.separator, audit, kinds)
            refuse_mixed_kinds(source.path, kinds)
            if row["id"] in seen:
                if known.ids == "own":
                    raise record.error("id", f"{row['id']!r} occurs twice; give each row its own id")
                repeated += 1
                continue
            if known.ids != "made":
                seen.add(row["id"])
            written += 1
            audit.steps.update(map(label_kind, row["labels"]))
            yield row
        audit.rows_written += written
        audit.rows_used += bool(written)
        if repeated and not written:
            audit.rows_not_used[_REPEATED] += 1
            continue
        audit.parts_not_used[_REPEATED] += repeated
        for nothing in left_out:
            (audit.rows_not_used if nothing.what == "row" else audit.parts_not_used)[nothing.reason] += 1


def _finished(record: Record, row: Row, reading: Reading, separator: str, audit: Audit, kinds: Firsts) -> Row:
    """The row with its task and separator, after `check_row`. A completion that contradicts them is left out."""
    separator = reading.step_separator or row.get("step_separator") or separator
    if not isinstance(separator, str):
        raise record.error("step_separator", f"is {separator!r}; it must be the string between steps")
    cut = [first_cut([step], separator) is not None for step in row["completions"]]
    inside = sum(cut)
    if inside and reading.separator_inside == "blank":
        audit.separators_made_blank += inside
        steps = zip(row["completions"], cut, strict=True)
        row["completions"] = [" ".join(split_steps(step, separator)) if again else step for step, again in steps]
        if (divided := first_cut(row["completions"], separator)) is not None:
            raise record.error(
                "completions",
                f"has the step {shown(divided)}, which {separator!r} divides, and spaces cannot mend that. Give "
                "another --step_separator",
            )
    elif inside and reading.separator_inside == "refuse":
        raise record.error(
            "completions",
            f"has {counted(inside, 'step')} with the separator {separator!r} inside. Leave out --separator_inside "
            "refuse to replace it by a space, or give another --step_separator",
        )
    row = {"task": reading.task, **row, "step_separator": separator}
    if reading.separator_inside == "keep":
        del row["step_separator"]
    try:
        row = check_row(record.path, record.line, row, "stepwise", kinds=kinds)
    except RowError as error:
        raise record.error(error.field or "", error.problem) from None
    if isinstance(row.get("completion"), str) and not _is_cut_into(row["completion"], row["completions"], separator):
        audit.parts_not_used[_OTHER_TEXT] += 1
        return {name: value for name, value in row.items() if name not in _OF_TEXT}
    return row


def _is_cut_into(text: str, steps: Sequence[str], separator: str) -> bool:
    try:
        step_regions(text, steps, separator)
    except ValueError:
        return False
    return True
