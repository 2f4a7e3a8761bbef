"""Converts files of rows to JSON lines: Parquet, Arrow folders, CSV, JSON arrays, and compressed files.

A file that is not in JSON lines is converted once. The converted file is kept next to it, or in the user's cache, and
made again if the file changes. Memory does not grow with the number of rows, except for a JSON array.
"""

from __future__ import annotations

import csv
import errno
import gzip
import json
import re
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from qstep.data.cached import cache_folders
from qstep.data.call_arguments import with_own_arguments
from qstep.data.columns import LISTS, NAMES, RULES, TYPED, takes_null, typed
from qstep.data.hub import hub_lines, is_hub_id, missing
from qstep.data.inputs import COMPRESSED, CONVERTED, ending
from qstep.data.jsonl import RowError, dump_foreign_row, parse_row, refuse_constant, write_json, write_whole
from qstep.types import Row

_VERSION = 4
_ROWS_AT_ONCE = 1024
_MAY_BE_EMPTY = {*NAMES["completion"]} - {*LISTS}
_COLUMNS = {*RULES, *(name for names in NAMES.values() for name in names), "messages", "tools"}
_OF_LISTS = re.compile(rb'\{\s*"[^"\\]*"\s*:\s*\[\s*[{\]]')
_SPLITS = {"train", "test", "validation", "valid", "val", "dev"}


def as_lines(path: Path) -> Path:
    """The file of JSON lines with the rows of one file, folder or Hub id: the path itself, or its converted file.

    Raises:
        RowError: a row of the file cannot be a row.
        ValueError: the file's content does not fit its suffix, a package to read it is missing, or the Hub does not
            give the data set.
    """
    if is_hub_id(path):
        return hub_lines(path)
    if not path.exists():
        raise missing(path)
    if not (path.is_dir() or path.suffix in COMPRESSED or _rows_of(path) is not None):
        return path
    key = {"version": _VERSION, "of": _stamp(path)}
    places = [folder / f".{path.name}{CONVERTED}" for folder in cache_folders(path.resolve())]
    for place in places:
        with suppress(OSError, ValueError):
            if json.loads(place.with_suffix(".json").read_text()) == key and place.is_file():
                return place
    for place in places:
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            write_whole(place, _converted(path))
            write_json(place.with_suffix(".json"), key)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise ValueError(f"{path} is damaged or incomplete: {error}. Copy or download it again") from None
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
                raise
            continue
        return place
    raise OSError(f"{path} cannot be converted to JSON lines: neither its folder nor the cache can be written")


def _stamp(path: Path) -> list[list[Any]]:
    """The names, sizes and times of a file or a folder's files. They change if the content changes."""
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    known = [(file, file.stat()) for file in files if file.is_file()]
    return [[file.name, stat.st_size, stat.st_mtime_ns, stat.st_ino] for file, stat in known]


def _converted(path: Path) -> Iterator[bytes]:
    """The rows as lines, without values that are null but must not be. A blank line stays one, so lines keep their
    numbers. Raises RowError for a row that JSON cannot hold."""
    read = _rows_of(path) or _rows_of_lines
    for number, row in enumerate(read(path), 1):
        if row is None:
            yield b"\n"
            continue
        kept = {str(name): value for name, value in row.items() if value is not None or takes_null(str(name))}
        try:
            yield dump_foreign_row(kept) + b"\n"
        except ValueError as error:
            raise RowError(path, number, None, str(error)) from None


def _rows_of(path: Path) -> Callable[[Path], Iterator[Row | None]] | None:
    """The reader of a file's rows, by its name or, for .json, by how it begins. None for JSON lines."""
    if path.is_dir():
        return _rows_of_folder
    suffix = ending(path)
    readers = {".parquet": _rows_of_parquet, ".csv": _rows_of_csv, ".tsv": _rows_of_csv, ".arrow": _rows_of_arrow}
    if suffix == ".json" and path.is_file():
        with _opened(path) as file:
            lines = (line.strip(b"\xef\xbb\xbf \t\r\n") for line in iter(lambda: file.readline(1024), b""))
            first = next(filter(None, lines), b"")
            if first.startswith(b"[") or first == b"{":
                return _rows_of_array
        return _rows_of_array if _OF_LISTS.match(first) and _is_of_lists(path) else None
    return readers.get(suffix)


def _is_of_lists(path: Path) -> bool:
    """Whether a file has one line, an object of lists of rows. A row may also have only lists, as of messages."""
    with _opened(path) as file:
        lines = filter(None, (line.strip() for line in file))
        try:
            held = parse_row(next(lines, b""))
        except ValueError:
            return False
        if next(lines, b"") or held.keys() & _COLUMNS:
            return False
    return all(isinstance(rows, list) and all(isinstance(row, dict) for row in rows) for rows in held.values())


def _opened(path: Path) -> IO[bytes]:
    """The content of a file, without its compression."""
    if path.suffix == ".gz":
        return gzip.open(path, "rb")  # type: ignore[return-value]
    if path.suffix == ".zst":
        if sys.version_info >= (3, 14):
            from compression import zstd

            return zstd.open(path, "rb")
        try:
            import zstandard
        except ImportError:
            raise ValueError(f"{path} needs a package that is not installed: pip install zstandard") from None
        return zstandard.open(path, "rb")
    return path.open("rb")


def _rows_of_lines(path: Path) -> Iterator[Row | None]:
    """The row of each line, None for a blank one."""
    with _opened(path) as file:
        for number, line in enumerate(file, 1):
            try:
                yield None if line.isspace() else parse_row(line)
            except ValueError as error:
                raise RowError(path, number, None, f"{error}. Correct or delete this line") from None


def _rows_of_array(path: Path) -> Iterator[Row]:
    with _opened(path) as file:
        try:
            rows = json.loads(file.read().decode("utf-8-sig"), parse_constant=refuse_constant)
        except ValueError as error:
            raise ValueError(f"{path} is not JSON: {error}") from None
        except RecursionError:
            raise ValueError(f"{path} cannot be read: its JSON is nested too deeply") from None
    if isinstance(rows, dict) and all(isinstance(held, list) for held in rows.values()):
        if len(rows) > 1 and _SPLITS & rows.keys():
            raise ValueError(f"{path} has the splits {', '.join(rows)}. Write the rows of each to a file of its own")
        rows = [row for held in rows.values() for row in held]
    if not isinstance(rows, list):
        raise ValueError(f"{path} is neither a list of objects nor an object of such lists")
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise RowError(path, number, None, "is not an object")
        yield row


def _rows_of_csv(path: Path) -> Iterator[Row]:
    """Cells are text. Columns that are never text, such as `label`, are read as JSON; an empty cell is null."""
    import io

    csv.field_size_limit(1 << 30)
    delimiter = "\t" if ending(path) == ".tsv" else ","
    with _opened(path) as file, io.TextIOWrapper(file, encoding="utf-8-sig", newline="") as text:
        reader = csv.DictReader(text, delimiter=delimiter, strict=True)
        try:
            names = reader.fieldnames or ()
            _check_header(path, list(names))
            for number, cells in enumerate(reader, 1):
                if None in cells or None in cells.values():
                    more = len(cells[None]) if None in cells else -list(cells.values()).count(None)
                    fields = f"has {len(names) + more} fields, and the first line has {len(names)}"
                    raise RowError(path, number, None, fields)
                yield {name: _cell(name, cell) for name, cell in cells.items()}
        except UnicodeDecodeError:
            raise ValueError(f"{path}, after line {reader.line_num}: not UTF-8. Save the file as UTF-8") from None
        except csv.Error as error:
            what = "a quotation mark is never closed" if "unexpected end" in str(error) else str(error)
            raise ValueError(f"{path}, after line {reader.line_num}: {what}") from None


def _check_header(path: Path, names: Sequence[str]) -> None:
    """Raises ValueError if the first line has a name twice, other separators than commas, or JSON."""
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"{path}: the first line has {', '.join(map(repr, sorted(twice)))} twice; rename one")
    if names and names[0].lstrip().startswith("{"):
        raise ValueError(f"{path} has JSON on its first line: rename it to end in .jsonl")
    if len(names) == 1 and ";" in names[0]:
        raise ValueError(f"{path}: its columns are separated by semicolons. Save it with commas")


def _cell(name: str, cell: str) -> Any:
    if cell == "" and name not in _MAY_BE_EMPTY:
        return None
    return typed(cell) if name in TYPED else cell


def _rows_of_parquet(path: Path) -> Iterator[Row]:
    import pyarrow
    from pyarrow import parquet

    try:
        with _opened(path) as file:
            for batch in parquet.ParquetFile(pyarrow.PythonFile(file, mode="r")).iter_batches(_ROWS_AT_ONCE):
                yield from map(with_own_arguments, batch.to_pylist())
    except pyarrow.ArrowInvalid as error:
        raise ValueError(f"{path} is not a Parquet file: {error}") from None


def _rows_of_arrow(path: Path) -> Iterator[Row]:
    import pyarrow

    try:
        with _opened(path) as file:
            for batch in _batches_of_arrow(pyarrow.PythonFile(file, mode="r")):
                yield from map(with_own_arguments, batch.to_pylist())
    except pyarrow.ArrowInvalid:
        raise ValueError(f"{path} is not an Arrow file") from None


def _batches_of_arrow(file: Any) -> Any:
    """The batches of an Arrow file: pandas writes the file form, and datasets writes the stream form."""
    import pyarrow
    from pyarrow import ipc

    try:
        reader = ipc.open_file(file)
    except pyarrow.ArrowInvalid:
        file.seek(0)
        return ipc.open_stream(file)
    return (reader.get_batch(number) for number in range(reader.num_record_batches))


def _rows_of_folder(path: Path) -> Iterator[Row]:
    """The rows of a folder that `Dataset.save_to_disk` wrote."""
    import datasets

    try:
        found = datasets.load_from_disk(str(path))
    except FileNotFoundError:
        raise ValueError(f"{path} is a folder, but not one that Dataset.save_to_disk wrote") from None
    if not isinstance(found, datasets.Dataset):
        raise ValueError(f"{path} has the splits {', '.join(found)}: give the folder of one of them")
    yield from map(with_own_arguments, found.with_format(None))
