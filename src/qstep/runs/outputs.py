"""Checks of output files: a command never overwrites its inputs or a file with other content."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any


def refuse_overwriting(options: Mapping[str, Any], names: Collection[str]) -> None:
    """Raises ValueError, which names both options, if an output is also an input or another output.

    `names` are the options that are outputs.
    """
    outputs = {name: options[name] for name in names if options[name] is not None}
    for output, path in outputs.items():
        for name, value in options.items():
            for other in _paths(value) if name != output else ():
                twice = name in outputs and os.path.abspath(path) == os.path.abspath(other)
                if twice or (os.path.isfile(path) and os.path.isfile(other) and os.path.samefile(path, other)):
                    raise ValueError(f"--{output} {path} is also the file of --{name}: choose another file to write")


def refuse_foreign(option: str, path: Path, is_ours: Callable[[Path], bool]) -> None:
    """Raises ValueError if an output exists and is not a file that this command writes."""
    if path.is_dir():
        raise ValueError(f"--{option} {path} is a folder: give a file to write")
    if path.exists() and path.stat().st_size and not is_ours(path):
        raise ValueError(f"--{option} {path} exists with other content: choose another file, or delete it")


def begins_with(path: Path, start: bytes) -> bool:
    """Whether a file begins with these bytes, in upper or lower case. `start` is in lower case."""
    with path.open("rb") as file:
        return file.read(len(start)).lower() == start


def _paths(value: Any) -> Iterator[str | Path]:
    if isinstance(value, str | Path):
        yield value
    elif isinstance(value, Mapping | list):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _paths(item)
