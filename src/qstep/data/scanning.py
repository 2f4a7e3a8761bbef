"""One pass over a JSONL file, in several processes, which checks each row and makes its record for the index."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from qstep.cores import cores
from qstep.data.jsonl import RowError, bad_line, parse_row
from qstep.data.records import COLUMNS, record
from qstep.data.row_files import as_lines
from qstep.data.rows import Format, check_row, last_text
from qstep.data.splitters import is_named, use_splitter
from qstep.data.steps import first_cut
from qstep.types import Row

_BYTES_A_PROCESS = 1 << 25
"""A process checks this much in a second, so a smaller file gets one process only."""
_BOOT = "import sys; sys.path[:] = sys.argv[1:]; from qstep.data.scanning import scan_for_parent; scan_for_parent()"


def checked_line(path: Path, line: int, text: bytes, format: Format, forbidden: Sequence[str]) -> Row:
    """The row of a line, checked. Raises RowError for a bad row, or a step that contains a forbidden string."""
    try:
        raw = parse_row(text)
    except ValueError as error:
        raise RowError(path, line, None, bad_line(path, line, error)) from None
    row = check_row(path, line, raw, format)
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


def scan_file(path: Path, format: Format, forbidden: Sequence[str]) -> tuple[NDArray[np.void], dict[str, Any]]:
    """The records of a file's rows, and the texts that they refer to by number: separators, roles and the ending.

    Raises:
        RowError: a row is bad, or a step contains a forbidden string.
        ValueError: the file is empty.
    """
    size = as_lines(path).stat().st_size
    workers = min(cores(), max(1, size // _BYTES_A_PROCESS))
    bounds = [size * i // workers for i in range(workers + 1)]
    if workers == 1:
        records = io.BytesIO()
        found = [_scan(path, 0, size, format, forbidden, records)]
        table = np.frombuffer(records.getbuffer(), COLUMNS)
    else:
        table, found = _in_processes(path, bounds, format, forbidden)
    before = 0
    for part in found:
        if part["stopped_at"] is not None:
            _raise_what_is_wrong(path, before + part["rows"] + 1, part["stopped_at"], format, forbidden)
        before += part["rows"]
    if before == 0:
        raise ValueError(f"{path} has no rows")
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
    path: Path, bounds: list[int], format: Format, forbidden: Sequence[str]
) -> tuple[NDArray[np.void], list[dict[str, Any]]]:
    """Each process is a program of its own, so nothing of the calling program is imported or forked."""
    with tempfile.TemporaryDirectory(prefix="qstep-index-") as folder:
        processes: list[subprocess.Popen[bytes]] = []
        try:
            for i, (start, end) in enumerate(pairwise(bounds)):
                request = {
                    "path": str(path),
                    "start": start,
                    "end": end,
                    "format": format,
                    "forbidden": list(forbidden),
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
    with open(request.pop("records"), "wb") as records:
        found = _scan(Path(request.pop("path")), **request, records=records)
    sys.stdout.write(json.dumps(found))


def _scan(
    path: Path, start: int, end: int, format: Format, forbidden: Sequence[str], records: BinaryIO
) -> dict[str, Any]:
    """Writes a record for each line that begins in `[start, end)`. Stops at the first bad one."""
    separators: dict[str | None, int] = {}
    roles: dict[tuple[str, ...], int] = {}
    ending = _Ending()
    rows = 0
    stopped_at: int | None = None
    with as_lines(path).open("rb") as file:
        if start > 0:
            file.seek(start - 1)
            start += len(file.readline()) - 1
        offset = start
        while offset < end:
            text = file.readline()
            try:
                row = checked_line(path, 0, text, format, forbidden)
            except RowError:
                stopped_at = offset
                break
            records.write(record(row, format, offset, text, separators, roles))
            ending.add(last_text(row["prompt"]))
            offset += len(text)
            rows += 1
    return {
        "rows": rows,
        "stopped_at": stopped_at,
        "separators": list(separators),
        "roles": list(roles),
        "prompt": ending.prompt,
        "ending": ending.found,
    }


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


def _raise_what_is_wrong(path: Path, line: int, offset: int, format: Format, forbidden: Sequence[str]) -> None:
    with as_lines(path).open("rb") as file:
        file.seek(offset)
        text = file.readline()
    checked_line(path, line, text, format, forbidden)
    raise RowError(path, line, None, "the file was changed while it was read; start again")
