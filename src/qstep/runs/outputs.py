"""What a command may write to: never one of its inputs, nor a file that holds something else."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from qstep.runs.options import Output, options_of


def refuse_overwriting(config: Any) -> None:
    """Raises ValueError, naming both options, where a file to write is one to read, or is to be written twice."""
    options = vars(config)
    about = options_of(type(config))
    outputs = {name: path for name, path in options.items() if path is not None and about[name].of(Output)}
    for output, path in outputs.items():
        for name, value in options.items():
            for other in _paths(value) if name != output else ():
                twice = name in outputs and os.path.abspath(path) == os.path.abspath(other)
                if twice or (os.path.isfile(path) and os.path.isfile(other) and os.path.samefile(path, other)):
                    raise ValueError(f"--{output} {path} is the file of --{name} too: choose another file to write")


def refuse_foreign(option: str, path: Path, is_ours: Callable[[Path], bool]) -> None:
    """Raises ValueError where a file to write is there already and is not what this command writes."""
    if path.is_dir():
        raise ValueError(f"--{option} {path} is a folder: give a file to write")
    if path.exists() and path.stat().st_size and not is_ours(path):
        raise ValueError(f"--{option} {path} is there and holds something else: choose another file, or delete it")


def begins_with(path: Path, start: bytes) -> bool:
    """Whether a file begins with these bytes, letters of either case."""
    with path.open("rb") as file:
        return file.read(len(start)).lower() == start


def is_json_with(*names: str) -> Callable[[Path], bool]:
    """Whether a file is a JSON object with these entries, laid out as `write_json` does; rows begin otherwise."""

    def holds(path: Path) -> bool:
        if not begins_with(path, b"{\n"):
            return False
        try:
            return {*names} <= json.loads(path.read_bytes()).keys()
        except ValueError:
            return False

    return holds


def _paths(value: Any) -> Iterator[str | Path]:
    if isinstance(value, str | Path):
        yield value
    elif isinstance(value, Mapping | list):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _paths(item)
