"""Arrays derived from a file, such as its index, which are kept next to it and mapped into memory."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qstep.data.jsonl import canonical_json, write_whole


def cached_array(
    path: Path, suffix: str, key: dict[str, Any], dtype: np.dtype[Any], build: Any
) -> tuple[dict[str, Any], NDArray[Any]]:
    """An array derived from the file at `path`, and a few words about it, mapped from `<path>.<suffix>`.

    `build() -> (words, array)` makes both where no cache of the same `key` is found. The cache is one line of
    JSON and the array's bytes, replaced as a whole: a reader sees an old one or a new one.
    """
    places = [folder / f"{path.name}.{suffix}" for folder in cache_folders(path)]
    for place in places:
        with suppress(OSError, ValueError):
            return _mapped(place, key, dtype)
    words, array = build()
    header = {"key": key, "rows": len(array), "words": words}
    for place in places:
        with suppress(OSError):
            write_whole(place, [canonical_json(header) + b"\n", np.ascontiguousarray(array).view(np.uint8).data])
            with suppress(ValueError):  # of another key by now
                return _mapped(place, key, dtype)
            break
    return words, array


def cache_folders(path: Path) -> Iterator[Path]:
    """Folders for files derived from this one: its own folder first, then one in the user's cache."""
    yield path.parent
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    yield cache / "qstep" / hashlib.sha256(os.fsencode(path)).hexdigest()[:16]


def _mapped(place: Path, key: dict[str, Any], dtype: np.dtype[Any]) -> tuple[dict[str, Any], NDArray[Any]]:
    """The words and the array of a cache. Raises ValueError if it is not a whole one of that key.

    The file is opened once: another run may put one of another key in its place at any moment.
    """
    with place.open("rb") as file:
        line = file.readline()
        header = json.loads(line)
        if not isinstance(header, dict) or not {"key", "rows", "words"} <= header.keys() or header["key"] != key:
            raise ValueError(f"{place} is not a cache of this key")
        if os.fstat(file.fileno()).st_size != len(line) + header["rows"] * dtype.itemsize:
            raise ValueError(f"{place} is not whole")
        return header["words"], np.memmap(file, dtype, "r", len(line), (header["rows"],))
