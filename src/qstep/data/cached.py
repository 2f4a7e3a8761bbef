"""Caches arrays that are derived from a file, such as its index, next to the file."""

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
    """An array derived from the file at `path`, and a dict that describes it.

    They are read from the cache `<path>.<suffix>`; the array is mapped into memory. If there is no cache with this
    `key`, `build() -> (words, array)` makes both, and they are cached. The cache is a line of JSON and the array's
    bytes. It is replaced atomically.
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
            with suppress(ValueError):  # another process may have replaced it
                return _mapped(place, key, dtype)
            break
    return words, array


def cache_folders(path: Path) -> Iterator[Path]:
    """Folders for files derived from this one: its own folder first, then one in the user's cache."""
    yield path.parent
    yield user_cache() / hashlib.sha256(os.fsencode(path)).hexdigest()[:16]


def user_cache() -> Path:
    """The folder of this package in the user's cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "qstep"


def _mapped(place: Path, key: dict[str, Any], dtype: np.dtype[Any]) -> tuple[dict[str, Any], NDArray[Any]]:
    """The words and the array of a cache. Raises ValueError if it is incomplete or has another key.

    The file is opened only once, because another run may replace it at any moment.
    """
    with place.open("rb") as file:
        line = file.readline()
        header = json.loads(line)
        if not isinstance(header, dict) or not {"key", "rows", "words"} <= header.keys() or header["key"] != key:
            raise ValueError(f"{place} is not a cache of this key")
        if os.fstat(file.fileno()).st_size != len(line) + header["rows"] * dtype.itemsize:
            raise ValueError(f"{place} is incomplete")
        return header["words"], np.memmap(file, dtype, "r", len(line), (header["rows"],))
