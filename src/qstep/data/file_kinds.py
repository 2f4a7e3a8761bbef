"""Recognises a file that is not JSON lines by its beginning, and says what to do about it."""

from __future__ import annotations

import json
import re
from pathlib import Path

_BEGINNING = 1 << 16
_WRITE = "Write one JSON object on each line"
_READ = "qstep reads JSON lines, and files whose names end in .json, .parquet, .csv, .tsv, .arrow, .gz or .zst"
_SPREAD = (
    "The file has a JSON object over several lines: write each object on one line (`jq -c . FILE`), or a list of "
    "objects to a file that ends in .json"
)
_UTF_16 = "The file is UTF-16: convert it to UTF-8 (`iconv -f UTF-16 -t UTF-8 FILE`)"

_MAGIC = {
    b"version https://git-lfs": (
        "The file is a Git LFS pointer, not the data: run `git lfs pull` in its repository, or download the file again"
    ),
    b"PAR1": "The file is Parquet: rename it to end in .parquet",
    b"ARROW1": "The file is Arrow: rename it to end in .arrow",
    b"\x1f\x8b": "The file is compressed: rename it to end in .jsonl.gz",
    b"\x28\xb5\x2f\xfd": "The file is compressed: rename it to end in .jsonl.zst",
    b"\xff\xfe": _UTF_16,
    b"\xfe\xff": _UTF_16,
    b"PK\x03\x04": "The file is a ZIP archive or an Excel file: unpack it, or save it as .csv",
}
"""How files of a kind begin, and what to do about such a file."""


def other_kind(path: Path) -> str | None:
    """What a file is if its beginning is not JSON lines, and what to do about it. None if it begins with a row."""
    with path.open("rb") as file:
        content = file.read(_BEGINNING)
    for magic, advice in _MAGIC.items():
        if content.startswith(magic):
            return advice
    if b"\0" in content:
        return f"The file is binary. {_READ}"
    lines = content.decode("utf-8-sig", errors="replace").strip().splitlines()
    first, second = [*lines, "", ""][:2]
    if re.match(r"<(!doctype|html|head|body|\?xml)\b", first, re.IGNORECASE):
        return "The file is a web page: download the data itself, by the link to the raw file"
    if not first or first.startswith("[") or _is_json(first):
        return None
    if first.startswith("{"):
        return _SPREAD if second and not second.startswith("{") else None
    if (delimiter := _delimiter(first, second)) is not None:
        return f"The file looks like a table: rename it to end in {delimiter}"
    if re.match(r"---|%YAML|- \S|[\w-]+:( |$)", first):
        return f"The file looks like YAML, which qstep does not read. {_WRITE}"
    return f"The file is plain text. {_READ}"


def _is_json(line: str) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _delimiter(first: str, second: str) -> str | None:
    """The ending of a table's name if the first two lines have equally many cells."""
    for delimiter, ending in (("\t", ".tsv"), (",", ".csv")):
        if first.count(delimiter) and first.count(delimiter) == second.count(delimiter):
            return ending
    return None
