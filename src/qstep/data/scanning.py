"""One pass over files of rows, in several processes, which checks each row and makes its record for the index."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from qstep.cores import cores
from qstep.data.inputs import Lines, Range, located
from qstep.data.jsonl import RowError, bad_line, parse_row
from qstep.data.naming import chosen_columns, name_in, training_row
from qstep.data.records import COLUMNS, record
from qstep.data.rows import Format, check_row, last_text
from qstep.data.splitters import is_named, use_splitter
from qstep.data.steps import first_cut
from qstep.data.truth import Firsts, refuse_mixed_kinds
from qstep.types import Row

_BYTES_A_PROCESS = 1 << 25
"""A process checks this much in a second, so a smaller file gets one process only."""
_BOOT = "import sys; sys.path[:] = sys.argv[1:]; from qstep.data.scanning import scan_for_parent; scan_for_parent()"


def checked_line(
    path: Path,
    line: int,
    text: bytes,
    format: Format,
    forbidden: Sequence[str],
    columns: Mapping[str, str] | None = None,
    kinds: Firsts | None = None,
) -> Row:
    """The row of a line, checked, with the chosen `columns` under this package's names.

    `kinds` gets the kinds of its labels. Raises RowError for a bad row, or a step that contains a forbidden string.
    """
    try:
        raw = parse_row(text)
    except ValueError as error:
        raise RowError(path, line, None, bad_line(*located(path, line), error)) from None
    chosen = chosen_columns(columns)
    own = training_row(path, line, raw, chosen)
    try:
        row = check_row(path, line, own, format, kinds={} if kinds is None else kinds)
    except RowError as error:
        known = name_in(raw, error.field) if error.field in own else error.field
        raise RowError(path, line, chosen.get(error.field or "", known), error.problem) from None
    for separator in forbidden if "completions" in row else ():
        split_at = row.get("step_separator")
        cut = first_cut(row["completions"], separator, split_by_it=split_at == separator)
        if cut is not None and split_at not in (None, separator):
            raise RowError(
                path,
                line,
                "step_separator",
                f"is {split_at!r}, but a step contains {separator!r}, where this run splits or reads Q. Give "
                "--step_separator and, for a literal one, --separator_token as in the rows",
            )
        if cut is not None:
            raise RowError(
                path,
                line,
                "completions",
                f"the step {cut[:60]!r} contains the separator {separator!r}. Split it there, or choose another "
                "separator (--step_separator, --separator_token)",
            )
    return row


def scan_file(
    path: Path, format: Format, forbidden: Sequence[str], columns: Mapping[str, str] | None = None
) -> tuple[NDArray[np.void], dict[str, Any]]:
    """The records of a path's rows, and the texts that they refer to by number: separators, roles and the ending.

    Raises:
        RowError: a row is bad, a step contains a forbidden string, or labels are integers in some rows only.
        ValueError: there are no rows.
    """
    lines = Lines.of(path)
    workers = min(cores(), max(1, lines.size // _BYTES_A_PROCESS))
    bounds = [lines.size * i // workers for i in range(workers + 1)]
    shares = [[*lines.ranges(start, end)] for start, end in pairwise(bounds)]
    if workers == 1:
        records = io.BytesIO()
        found = [_scan(shares[0], format, forbidden, columns, records)]
        table = np.frombuffer(records.getbuffer(), COLUMNS)
    else:
        table, found = _in_processes(path, shares, format, forbidden, columns)
    kinds: Firsts = {}
    before = rows = 0
    for part in found:
        for name, firsts in part["kinds"].items():
            for kind, line in firsts.items():
                kinds.setdefault(name, {}).setdefault(kind, before + line)
        if part["stopped_at"] is not None:
            file, offset = part["stopped_at"]
            _raise_what_is_wrong(path, before + part["lines"], Path(file), offset, format, forbidden, columns)
        table["line"][rows : rows + part["rows"]] += before
        before += part["lines"]
        rows += part["rows"]
    if rows == 0:
        raise ValueError(f"{path} has no rows")
    refuse_mixed_kinds(path, kinds)
    words: dict[str, Any] = {}
    for name, column_name in (("separators", "separator"), ("roles", "roles")):
        codes: dict[str, int] = {}
        start = 0
        for part in found:
            mapping = np.array([codes.setdefault(json.dumps(value), len(codes)) for value in part[name]], "<i4")
            column = table[column_name][start : start + part["rows"]]
            column[:] = mapping[column]
            start += part["rows"]
        words[name] = [json.loads(value) for value in codes]
    endings = _Ending()
    for part in found:
        endings.join(part["prompt"], part["ending"])
    words["ending"] = endings.found
    return table, words


def _in_processes(
    path: Path,
    shares: list[list[Range]],
    format: Format,
    forbidden: Sequence[str],
    columns: Mapping[str, str] | None,
) -> tuple[NDArray[np.void], list[dict[str, Any]]]:
    """Each process is a program of its own, so nothing of the calling program is imported or forked."""
    with tempfile.TemporaryDirectory(prefix="qstep-index-") as folder:
        processes: list[subprocess.Popen[bytes]] = []
        try:
            for i, share in enumerate(shares):
                request = {
                    "ranges": [[str(file), *numbers] for file, *numbers in share],
                    "format": format,
                    "forbidden": list(forbidden),
                    "columns": None if columns is None else dict(columns),
                    "records": f"{folder}/{i}",
                }
                process = subprocess.Popen(
                    [sys.executable, "-c", _BOOT, *sys.path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
                )
                processes.append(process)
                assert process.stdin
                process.stdin.write(json.dumps(request).encode())
                process.stdin.close()
            found = []
            for process in processes:
                assert process.stdout
                answer = process.stdout.read()
                if process.wait() != 0:
                    raise RuntimeError(f"a process that reads {path} ended with status {process.returncode}")
                found.append(json.loads(answer))
        finally:
            for process in processes:
                if process.poll() is None:
                    process.kill()
                    process.wait()
        return np.concatenate([np.fromfile(f"{folder}/{i}", COLUMNS) for i in range(len(found))]), found


def scan_for_parent() -> None:
    """What a process of `index_rows` runs: a request on stdin, the records in a file, what was found on stdout."""
    request = json.loads(sys.stdin.buffer.read())
    for separator in filter(is_named, request["forbidden"]):
        use_splitter(separator)  # as the parent process did
    ranges = [(Path(file), *numbers) for file, *numbers in request.pop("ranges")]
    with open(request.pop("records"), "wb") as records:
        found = _scan(ranges, **request, records=records)
    sys.stdout.write(json.dumps(found))


def _scan(
    ranges: Sequence[Range],
    format: Format,
    forbidden: Sequence[str],
    columns: Mapping[str, str] | None,
    records: BinaryIO,
) -> dict[str, Any]:
    """Writes a record for each line that begins in one of the ranges. Blank lines are counted only.

    Stops at the first bad row, with the number of lines through it.
    """
    separators: dict[str | None, int] = {}
    roles: dict[tuple[str, ...], int] = {}
    kinds: Firsts = {}
    ending = _Ending()
    rows = lines = 0
    stopped_at: tuple[str, int] | None = None
    for file, offset, base, text in _lines_in(ranges):
        lines += 1
        if text.isspace():
            continue
        try:
            row = checked_line(file, lines, text, format, forbidden, columns, kinds)
        except RowError:
            stopped_at = str(file), offset
            break
        records.write(record(row, format, base + offset, lines, text, separators, roles))
        ending.add(last_text(row["prompt"]))
        rows += 1
    return {
        "rows": rows,
        "lines": lines,
        "stopped_at": stopped_at,
        "separators": list(separators),
        "roles": list(roles),
        "kinds": kinds,
        "prompt": ending.prompt,
        "ending": ending.found,
    }


def _lines_in(ranges: Sequence[Range]) -> Iterator[tuple[Path, int, int, bytes]]:
    """Each line that begins in a range: its file, where it begins there, where the file begins, and its text."""
    for path, start, end, base in ranges:
        with path.open("rb") as file:
            if start > 0:
                file.seek(start - 1)
                start += len(file.readline()) - 1
            while start < end:
                text = file.readline()
                yield path, start, base, text
                start += len(text)


class _Ending:
    """What all prompts that were added end with: `found`, None while they are all the same `prompt`."""

    def __init__(self) -> None:
        self.prompt: str | None = None
        self.found: str | None = None

    def add(self, prompt: str) -> None:
        if self.prompt is None:
            self.prompt = prompt
        elif self.found is not None or prompt != self.prompt:
            self._shorten(prompt)

    def join(self, prompt: str | None, ending: str | None) -> None:
        """Adds what was found in another part of the file."""
        if prompt is not None:
            self.add(prompt)
        if ending is not None:
            self._shorten(ending)

    def _shorten(self, text: str) -> None:
        known = self.found if self.found is not None else self.prompt or ""
        if self.found is None or not text.endswith(known):
            pairs = zip(reversed(known), reversed(text), strict=False)
            common = next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(known), len(text)))
            self.found = known[len(known) - common :]


def _raise_what_is_wrong(
    path: Path,
    line: int,
    file: Path,
    offset: int,
    format: Format,
    forbidden: Sequence[str],
    columns: Mapping[str, str] | None,
) -> None:
    with file.open("rb") as lines:
        lines.seek(offset)
        text = lines.readline()
    checked_line(path, line, text, format, forbidden, columns)
    raise RowError(path, line, None, "the file was changed while it was read; start again")
