"""Reads responses with a known first wrong step, to evaluate scorers: published benchmarks and stepwise rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qstep.data import (
    NO_ERROR,
    Audit,
    Reading,
    RowError,
    Source,
    canonical_json,
    check_row,
    first_cut,
    first_wrong,
    group_key,
    read_published,
    recognise,
)
from qstep.data.published import ids_are_made
from qstep.data.truth import Firsts, refuse_mixed_kinds
from qstep.runs.stage_file import finished
from qstep.types import Row

if TYPE_CHECKING:
    from qstep.scoring import Scorer

UNKNOWN_ERROR = "its labels leave open which step is the first wrong one"


@dataclass(frozen=True)
class StepBenchmark:
    """The rows of one subset, each with `id`, `prompt`, `completions` and `first_error` (-1 for none), in order.

    `named` holds the ids that the file itself gives. `left_out` counts other rows by reason.
    `kinds` are those of the labels so far (`qstep.data.truth`).
    """

    name: str
    source: str
    rows: list[Row] = field(default_factory=list)
    named: set[str] = field(default_factory=set)
    left_out: Counter[str] = field(default_factory=Counter)
    kinds: Firsts = field(default_factory=dict)

    def add_stepwise(self, line: int, row: Row) -> None:
        """Adds a row of a file, with `prompt`, `completions` and `labels`.

        Raises RowError, naming field and line, for a malformed row or a repeated id.
        """
        path = Path(self.source)
        row = check_row(path, line, row, "stepwise", kinds=self.kinds)
        refuse_mixed_kinds(path, self.kinds)
        if not row["completions"]:
            self.left_out["the response has no step"] += 1
            return
        row["first_error"] = _first_error(path, line, row)
        if "id" in row:
            if row["id"] in self.named:
                raise RowError(path, line, "id", f"{row['id']!r} occurs twice; give each row its own id")
            self.named.add(row["id"])
        row.setdefault("id", f"{self.name}, line {line}")
        if row["first_error"] is None:
            self.left_out[UNKNOWN_ERROR] += 1
        else:
            self.rows.append(row)

    def separators(self, scorer: Scorer) -> dict[str, int]:
        """Counts of steps that differ from the scorer's training. Each is still scored as one step.

        The counts are of rows that were split at another separator than the scorer's, of rows that name no separator,
        and of steps that contain the scorer's separator, with their rows. The scorer's separator would split such a
        step.
        """
        wanted = scorer.step_separator
        split_at = [row.get("step_separator") for row in self.rows]
        inside = [
            sum(first_cut([step], wanted, split_by_it=True) is not None for step in row["completions"])
            for row in self.rows
        ]
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
    """The subsets by name: `.json`, `.jsonl` and `.parquet` files of the formats that `qstep convert` reads.

    The splits of a Hub id, or of a folder of such files, come first. `instruction` and `conversational` shape the
    prompts of published formats; stepwise rows have their own prompts. Steps are not split again.

    Raises:
        RowError: a row is malformed.
        ValueError: a file is unfinished or has no row with a known first error, or one of the two has no effect.
    """
    sources: dict[str, Source] = {}
    if dataset_name is not None and Path(dataset_name).is_file():
        raise ValueError(f"{dataset_name} is a file: give it with --inputs")
    if dataset_name is not None:
        import datasets

        splits = datasets.get_dataset_split_names(dataset_name)
        sources |= {str(split): Source.of(dataset_name, split=str(split)) for split in splits}
    for name, path in files.items():
        if name in sources:
            raise ValueError(f"{path} and a split of {dataset_name} are both called {name!r}: rename one")
        finished(path)
        sources[name] = Source.of(str(path))
    some_published, found = False, {}
    for name, source in sources.items():
        file = source.name if source.hub else str(source.path)
        benchmark = found[name] = StepBenchmark(name, file if source.is_file else f"{file}:{name}")
        format = recognise(source)
        if format == "trl_stepwise":
            for line, row in source.rows():
                benchmark.add_stepwise(line, row)
        else:
            some_published = True
            _add_published(benchmark, source, Reading(format, separator_inside="keep"), instruction, conversational)
        if not benchmark.rows:
            left_out = f"; left out: {dict(benchmark.left_out)}" if benchmark.left_out else ""
            raise ValueError(f"{benchmark.source} has no row with a known first wrong step{left_out}")
    # Not a mark: only the content of the files says whether they have their own prompts.
    if not some_published and (instruction is not None or conversational):
        option = "conversational" if conversational else "instruction"
        raise ValueError(f"--{option} has no effect: all rows have their own prompts. Remove the option")
    return found


def _add_published(
    benchmark: StepBenchmark, source: Source, reading: Reading, instruction: str | None, conversational: bool
) -> None:
    """Adds the rows of a published set, with the instruction and the form of prompt asked for."""
    from qstep.tasks import worded

    audit, made_here = Audit(), ids_are_made(reading.format)
    for row in read_published(source, reading, audit):
        first = _first_error(source.path, 0, row)
        if first is None:
            benchmark.left_out[UNKNOWN_ERROR] += 1
            continue
        if not made_here:
            benchmark.named.add(row["id"])
        benchmark.rows.append(
            {**row, "prompt": worded(row["prompt"], instruction, conversational), "first_error": first}
        )
    benchmark.left_out.update(audit.rows_not_used)


def _first_error(path: Path, line: int, row: Row) -> int | None:
    """The first wrong step, -1 if all are right, or None if unknown. It is checked against `first_error`."""
    labels: Sequence[Any] = row["labels"]
    if any(isinstance(label, float) for label in labels):
        raise RowError(path, line, "labels", "are soft; finding the first wrong step needs true and false")
    first = first_wrong(labels)
    before = labels if first == NO_ERROR else labels[:first]
    found = None if None in before else first
    said = row.get("first_error")  # null is ignored: some sets leave it empty for a right response
    if None not in (found, said) and said != found:
        raise RowError(path, line, "first_error", f"is {said!r}, but the labels say {found}; correct one of them")
    return found


def shared_rows(judged: StepBenchmark, other: StepBenchmark) -> tuple[list[str], int]:
    """The ids of rows that two benchmarks share (by id, or by prompt and steps), and the number of shared problems."""

    def content(row: Row) -> bytes:
        return canonical_json([row["prompt"], row["completions"]])

    theirs = {content(row) for row in other.rows}
    named = judged.named & other.named
    rows = [row["id"] for row in judged.rows if row["id"] in named or content(row) in theirs]
    problems = {group_key(row)[1] for row in judged.rows} & {group_key(row)[1] for row in other.rows}
    return rows, len(problems)
