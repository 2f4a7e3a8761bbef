"""Reads JSONL (one JSON object a line) with line numbers for errors, and replaces files atomically."""

from __future__ import annotations

import codecs
import hashlib
import json
import os
import uuid
from collections.abc import Iterable, Iterator
from datetime import date, time
from pathlib import Path
from typing import Any, NoReturn

from qstep.data.inputs import Lines, inputs_of, located, unit_of
from qstep.types import Row


class RowError(ValueError):
    """A row that cannot be used. The message names the file, the line, the field, and what to do.

    If the path names several files, `line` counts the lines of all of them, and the message has the line in its file.
    """

    def __init__(self, path: Path, line: int, field: str | None, problem: str) -> None:
        super().__init__(path, line, field, problem)
        self.path = path
        self.line = line
        self.field = field
        self.problem = problem

    def __str__(self) -> str:
        file, line = located(self.path, self.line)
        where = f"{file}, {unit_of(file)} {line}" + (f", field {self.field!r}" if self.field else "")
        return f"{where}: {self.problem}"


def read_rows(path: Path, *, allow_torn: bool = False) -> Iterator[Row]:
    """Yields the rows of a path's files in order: JSON lines, or what `qstep.data.row_files` converts to them.

    Blank lines are skipped. Raises RowError at another line that is not a JSON object. With `allow_torn`, which is for
    the file of an unfinished stage, a broken last line is left out instead, and blank lines are errors.
    """
    for _, row in numbered_rows(Path(path), allow_torn=allow_torn):
        yield row


def numbered_rows(path: Path, *, allow_torn: bool = False) -> Iterator[tuple[int, Row]]:
    """Like `read_rows`, with each row's line number, counted from 1 over all files."""
    for number, _, row in lines_of(path, allow_torn=allow_torn):
        yield number, row


def count_rows(path: Path) -> int:
    """The number of a path's rows. JSON lines are not parsed, and blank ones do not count."""
    count = 0
    for file in Lines.of(Path(path)).lines:
        with file.open("rb") as lines:
            count += sum(1 for line in lines if not line.isspace())
    return count


def rows_fingerprint(path: Path) -> str:
    """The fingerprint of the files that a path names: of the file, or of all files in their order.

    For a data set of the Hub it is its name with the commit. A stage records it for each input.
    """
    from qstep.data.hub import hub_fingerprint, is_hub_id

    files = inputs_of(Path(path))
    of_hub = [hub_fingerprint(file) for file in files if is_hub_id(file)]
    if len(files) == 1:
        return of_hub[0] if of_hub else file_fingerprint(files[0])
    each = [hub_fingerprint(file) if is_hub_id(file) else file_fingerprint(file) for file in files]
    return " ".join([hashlib.sha256("\n".join(each).encode()).hexdigest(), *of_hub])


def file_fingerprint(path: Path) -> str:
    """SHA-256 of a file's bytes, or of the names and bytes of a folder's files."""
    path = Path(path)
    digest = hashlib.sha256()
    for file in sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]:
        if path.is_dir():
            digest.update(f"{file.relative_to(path)}\0".encode())
        with file.open("rb") as content:
            while block := content.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def canonical_json(value: Any) -> bytes:
    """The canonical JSON text of a value: UTF-8, keys sorted. Raises ValueError at NaN and infinities."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def write_json(path: Path, value: Any) -> None:
    """Replaces `path` by `value` as JSON, through `write_whole`."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_whole(Path(path), [text.encode()])


def write_jsonl(path: Path, rows: Iterable[Row]) -> None:
    """Replaces `path` by the rows, one a line, through `write_whole`."""
    write_whole(Path(path), (dump_row(row) + b"\n" for row in rows))


def write_whole(path: Path, chunks: Iterable[bytes | memoryview]) -> None:
    """Replaces `path` by the joined chunks. A reader sees the old file or the new one, never a part.

    Makes the folder. Raises OSError if the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("wb") as file:
            file.writelines(chunks)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno:  # the message names the file that the user knows
            error.filename, error.filename2 = str(path), None
        raise
    sync(path.parent)


def sync(path: Path) -> None:
    """Returns when a file's content, or a folder's list of files, is on the disk."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def lines_of(path: Path, *, allow_torn: bool) -> Iterator[tuple[int, bytes, Row]]:
    """Yields each line's number, counted from 1 over all files, its bytes and its row."""
    found = Lines.of(path)
    before = 0
    for file, lines in zip(found.files, found.lines, strict=True):
        number = 0
        with lines.open("rb") as content:
            following = content.readline()
            while line := following:
                number += 1
                following = content.readline()
                if line.isspace() and not allow_torn:
                    continue
                try:
                    row = parse_row(line)
                except ValueError as error:
                    whole = line.endswith(b"\n") or line.startswith(b"[")
                    if not following and allow_torn:
                        return
                    torn = not following and not whole
                    raise RowError(file, number, None, bad_line(file, number, error, torn=torn)) from None
                yield before + number, line, row
        before += number


def bad_line(path: Path, number: int, error: ValueError, *, torn: bool = False) -> str:
    """The error of a line that is not a row, and what to do about it. `torn` lines are the last and may lack a part."""
    from qstep.data.file_kinds import other_kind

    if number == 1 and (kind := other_kind(path)) is not None:
        return f"{error}. {kind}"
    if torn:
        return f"{error}. The last line is incomplete: finish the stage that wrote it, or correct the line"
    if path.suffix == ".json":
        return f"{error}. A .json file is a list of objects, or has an object on each line"
    return f"{error}. Correct or delete this line"


def dump_row(value: Any) -> bytes:
    """The JSON text of a row, UTF-8, keys in their order. Raises ValueError at NaN and infinities."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False).encode()


def dump_foreign_row(row: Row) -> bytes:
    """`dump_row` of a row that this package did not make. NaN becomes null, and dates and times become ISO text.

    Raises ValueError, naming the column, for what JSON cannot hold.
    """
    try:
        return dump_row(row)
    except (TypeError, ValueError):
        plain = {name: _as_json(value) for name, value in row.items()}
    for name, value in plain.items():
        try:
            dump_row(value)
        except (TypeError, ValueError) as error:
            raise ValueError(f"column {name!r} holds what JSON cannot ({error}). Drop or convert it") from None
    return dump_row(plain)


def _as_json(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _as_json(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_as_json(item) for item in value]
    if value != value:  # NaN, or a missing time of pandas
        return None
    return value.isoformat() if isinstance(value, date | time) else value


def is_json(value: Any) -> bool:
    """Whether a value can be written as JSON."""
    try:
        dump_row(value)
    except (TypeError, ValueError):
        return False
    return True


_DIGITS_ALIKE = bytes.maketrans(b"123456789E", b"000000000e")
_MAY_OVERFLOW = (b"0e00", b"0e+00", b"0" * 300)
"""Patterns of a number that may overflow, after all its digits are replaced by 0."""


_KINDS = {
    list: "a list",
    str: "a string",
    int: "a number",
    float: "a number",
    bool: "a truth value",
    type(None): "null",
}


def kind_of(value: Any) -> str:
    """The kind of a JSON value, for messages."""
    return _KINDS.get(type(value), "an object")


def parse_row(text: bytes) -> Row:
    """Parses one JSON object. Raises ValueError for anything else, with a message for the file's user."""
    try:
        row = json.loads(text.removeprefix(codecs.BOM_UTF8).decode(), parse_constant=refuse_constant)
    except json.JSONDecodeError as error:
        if text.startswith(b"["):
            raise ValueError("a JSON list begins here: rename the file to end in .json") from None
        what = error.msg.removesuffix(" at").removesuffix(" starting")
        raise ValueError(f"not JSON ({what} at column {error.colno})") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 (byte {error.start})") from None
    except RecursionError:
        raise ValueError("JSON nested too deeply") from None
    if not isinstance(row, dict):
        raise ValueError(f"{kind_of(row)}, not a JSON object")
    digits_alike = text.translate(_DIGITS_ALIKE)
    if any(sign in digits_alike for sign in _MAY_OVERFLOW) and not is_json(row):
        raise ValueError("a number too large to be finite")
    if b"\\u" in text and not is_json(row):
        raise ValueError("a lone surrogate escape, which is not text")
    return row


def refuse_constant(name: str) -> NoReturn:
    """What `json.loads` calls for NaN and infinities. Raises ValueError."""
    raise ValueError(f"{name} is not JSON; write null for a value that is absent")
