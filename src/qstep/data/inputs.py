"""The files that one option of rows names: a file, several, a folder of them, a pattern, or a data set of the Hub.

An option of rows stays one path through the whole program. This module says which files it names, in their order, and
in which of them a row is. Rows are numbered by their lines, counted over all the files.
"""

from __future__ import annotations

import glob
import hashlib
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from os.path import exists, isdir, realpath  # a list of many files may be too long for the methods of Path
from pathlib import Path

FILES = (".jsonl", ".ndjson", ".json", ".parquet", ".arrow", ".csv", ".tsv", ".gz", ".zst")
"""The endings of names of files of rows. A folder of `Dataset.save_to_disk` needs none."""

COMPRESSED = (".gz", ".zst")
"""The endings of compressed files of rows."""

CONVERTED = ".rows.jsonl"
"""What is added to the name of a file that is converted to JSON lines. The result is hidden: `.a.csv.rows.jsonl`."""

_LINES = (".jsonl", ".ndjson", "")
_PATTERN = frozenset("*?[")
_SIDECAR = ".meta.json"


def joined(paths: Path | Sequence[Path]) -> Path:
    """Several paths as one, with commas between them.

    Raises ValueError if there are none, or if one has a comma in its name.
    """
    if isinstance(paths, Path):
        return paths
    if not paths:
        raise ValueError("the list of files is empty: give at least one")
    for path in paths:
        if "," in str(path):
            raise ValueError(f"{path} has a comma in its name, so it cannot be in a list: rename it")
    return Path(",".join(map(str, paths)))


def inputs_of(path: Path) -> tuple[Path, ...]:
    """The files, folders of `Dataset.save_to_disk` and Hub ids that a path names, in their order.

    A path that exists is itself, and a folder of files has these in the order of their names. Otherwise commas separate
    several paths, `*`, `?` and `[` make a pattern, and the form of `qstep.data.hub` makes a Hub id.

    Raises:
        FileNotFoundError: a file is missing, or a pattern matches none.
        ValueError: a folder holds no rows, or files of several kinds. Also if a file is named twice.
    """
    if exists(path) and not isdir(path):  # also a pipe
        return (path,)
    if isdir(path):
        return _in_folder(path)
    if "," in str(path):
        return _in_list(path)
    if is_pattern(path):
        return _matching(path)
    from qstep.data.hub import is_hub_id, missing

    if not is_hub_id(path):
        raise missing(path)
    return (path,)


def is_several(path: Path) -> bool:
    """Whether a path does not stand for itself, but for the files of a list, a pattern or a folder."""
    if isdir(path):
        return not _is_saved(path)
    return not exists(path) and ("," in str(path) or is_pattern(path))


def is_pattern(path: Path) -> bool:
    """Whether a path has a sign of patterns: `*`, `?` or `[`."""
    return bool(_PATTERN & {*str(path)})


def parts_of(path: Path) -> list[Path]:
    """The parts of a list as they are written: paths, patterns and Hub ids."""
    parts = [] if exists(path) else [part.strip() for part in str(path).split(",")]
    return [Path(part).expanduser() for part in parts if part] if len(parts) > 1 else [path]


def may_name(path: Path, output: Path) -> bool:
    """Whether a path names a file that is to be written, now or once it is there."""
    target = Path(output).absolute()
    return any(_part_may_name(part, target) for part in parts_of(path))


def named(path: Path) -> str:
    """The name of a path without its folder, for tables and model cards."""
    names = [found.name for found in inputs_of(path)] if is_several(path) else [path.name]
    return ", ".join(names) if len(names) <= 3 else f"{names[0]} and {len(names) - 1} more files"


def located(path: Path, line: int) -> tuple[Path, int]:
    """The file that has a line, and the line's number in it. `line` is counted over all files of the path."""
    if not is_several(path):
        return path, line
    try:
        return (_LATEST.get(path) or Lines.of(path)).located(line)
    except (OSError, ValueError):  # the path is only a name, or its files are gone
        return path, line


def from_table(path: Path, line: int) -> bool:
    """Whether a row is from a CSV or TSV file, whose cells are text. The path may be that of its converted file."""
    file = located(path, line)[0]
    is_converted = file.name.startswith(".") and file.name.endswith(CONVERTED)
    return ending(Path(file.name[1:].removesuffix(CONVERTED)) if is_converted else file) in (".csv", ".tsv")


def ending(file: Path) -> str:
    """The last ending of a file's name, without that of its compression."""
    return (file.with_suffix("") if file.suffix in COMPRESSED else file).suffix


def unit_of(file: Path) -> str:
    """What a file has: lines, or rows as in tables and lists."""
    from qstep.data.hub import is_hub_id

    is_lines = file.suffix in _LINES and not is_hub_id(file)
    return "line" if is_lines or file.name.endswith((".jsonl.gz", ".jsonl.zst")) else "row"


def line_of(path: Path, line: int) -> str:
    """The name of a row in a message that already names the path: `line 3`, or `line 3 of b.jsonl` in several files."""
    file, number = located(path, line)
    return f"{unit_of(file)} {number} of {file.name}" if is_several(path) else f"{unit_of(file)} {number}"


def place_of(path: Path, line: int) -> int | str:
    """A line as results name it: its number, or `3 of b.jsonl` in several files."""
    file, number = located(path, line)
    return f"{number} of {file.name}" if is_several(path) else number


Range = tuple[Path, int, int, int]
"""A part of a file: the file, where the part begins and ends, and where the file begins if all are one text."""


@dataclass(frozen=True)
class Lines:
    """The JSON lines of a path: each file, its file of JSON lines, and where that begins if all are one text."""

    path: Path
    files: tuple[Path, ...]
    lines: tuple[Path, ...]
    starts: tuple[int, ...]
    size: int

    @classmethod
    def of(cls, path: Path) -> Lines:
        """Converts files that are not in JSON lines. Raises as `inputs_of` and `qstep.data.row_files.as_lines` do."""
        from qstep.data.row_files import as_lines

        files = inputs_of(path)
        lines = tuple(map(as_lines, files))
        starts, size = [], 0
        for file in lines:
            starts.append(size)
            size += file.stat().st_size
        _LATEST[path] = found = cls(path, files, lines, tuple(starts), size)
        return found

    @property
    def cached_as(self) -> Path:
        """The path whose folder and name the caches of these rows have. Several files have a name of their own."""
        first = self.files[0] if exists(self.files[0]) else self.lines[0]
        first = first.resolve()
        if len(self.files) == 1:
            return first
        names = "\n".join(str(file.absolute()) for file in self.files)
        digest = hashlib.sha256(names.encode()).hexdigest()[:12]
        return first.with_name(f"{first.name}.and-{len(self.files) - 1}-more-{digest}")

    @cached_property
    def first_lines(self) -> list[int]:
        """The number of each file's first line, counted from 1 over all files."""
        firsts = [1]
        for file in self.lines[:-1]:
            with file.open("rb") as content:
                firsts.append(firsts[-1] + sum(1 for _ in content))
        return firsts

    def located(self, line: int) -> tuple[Path, int]:
        """The file that has a line, and the line's number in it."""
        number = bisect_right(self.first_lines, line) - 1
        return self.files[number], line - self.first_lines[number] + 1

    def read(self, start: int, size: int) -> bytes:
        """The bytes of a line that begins at `start`."""
        number = bisect_right(self.starts, start) - 1
        with self.lines[number].open("rb") as file:
            file.seek(start - self.starts[number])
            return file.read(size)

    def ranges(self, start: int, end: int) -> Iterator[Range]:
        """The parts of files that make the bytes `[start, end)`."""
        ends = (*self.starts[1:], self.size)
        for file, begins, stops in zip(self.lines, self.starts, ends, strict=True):
            if max(start, begins) < min(end, stops):
                yield file, max(start, begins) - begins, min(end, stops) - begins, begins


_LATEST: dict[Path, Lines] = {}
"""The lines of each path as its latest reader found them, so that they are counted once, not for every row."""


def _part_may_name(part: Path, target: Path) -> bool:
    here = part.absolute()
    if isdir(part):
        return not _is_saved(part) and target.parent == here and _holds_rows(target)
    if exists(part) or not is_pattern(part):
        return False
    if "**" in here.parts:
        return fnmatchcase(str(target), str(here))
    return len(target.parts) == len(here.parts) and all(map(fnmatchcase, target.parts, here.parts))


def _is_saved(folder: Path) -> bool:
    """Whether `datasets` saved the folder: a data set, or the splits of one."""
    return any((folder / name).is_file() for name in ("dataset_info.json", "state.json", "dataset_dict.json"))


def _holds_rows(file: Path) -> bool:
    """Whether a file's name is that of rows, and not of a file that qstep adds to rows."""
    of_rows = file.with_name(f"{file.name.removesuffix(_SIDECAR)}.jsonl")
    is_sidecar = file.name.endswith(_SIDECAR) and of_rows.exists()
    return file.suffix in FILES and not file.name.startswith(".") and not is_sidecar


def _in_folder(folder: Path) -> tuple[Path, ...]:
    if _is_saved(folder):
        return (folder,)
    found = tuple(sorted(file for file in folder.iterdir() if file.is_file() and _holds_rows(file)))
    kinds = sorted({"".join(file.suffixes[-2:] if file.suffix in COMPRESSED else [file.suffix]) for file in found})
    if len(kinds) > 1:
        raise ValueError(
            f"{folder} has files of several kinds ({', '.join(kinds)}): give those of one kind, as {folder}/*{kinds[0]}"
        )
    if not found:
        raise ValueError(
            f"{folder} is a folder, but not one that Dataset.save_to_disk wrote, and it has no files of rows "
            f"({', '.join(FILES)})"
        )
    return found


def _in_list(path: Path) -> tuple[Path, ...]:
    found: list[Path] = []
    for part in parts_of(path):
        found += inputs_of(part)
    real = [realpath(file) if exists(file) else str(file) for file in found]
    if twice := sorted({str(file) for file, place in zip(found, real, strict=True) if real.count(place) > 1}):
        raise ValueError(f"{path} names {', '.join(twice)} twice: its rows would be read twice. Remove one")
    return tuple(found)


def _matching(pattern: Path) -> tuple[Path, ...]:
    found = sorted(Path(name) for name in glob.glob(str(pattern.expanduser()), recursive=True))
    files = tuple(file for file in found if file.is_file() and _holds_rows(file))
    if not files:
        others = f". What matches it has another ending: {found[0].name}" if found else ""
        raise FileNotFoundError(2, f"no file of rows matches this pattern{others}", str(pattern))
    return files
