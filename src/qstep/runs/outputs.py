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
                if _is_same(path, other, twice=name in outputs):
                    raise ValueError(f"--{output} {path} is also the file of --{name}: choose another file to write")


def _is_same(output: Path, other: str | Path, *, twice: bool) -> bool:
    """Whether an output is another option's file, or one of its files. `twice`: the other option is an output too."""
    from qstep.data import may_name, parts_of

    if twice and os.path.abspath(output) == os.path.abspath(other):
        return True
    if isinstance(other, Path) and may_name(other, output):
        return True
    files = [file for file in parts_of(Path(other)) if os.path.isfile(file)]
    return os.path.isfile(output) and any(os.path.samefile(output, file) for file in files)


def refuse_foreign(option: str, path: Path, is_ours: Callable[[Path], bool]) -> None:
    """Raises ValueError if an output exists and is not a file that this command writes."""
    if path.is_dir():
        raise ValueError(f"--{option} {path} is a folder: give a file to write")
    if path.exists() and path.stat().st_size and not is_ours(path):
        raise ValueError(f"--{option} {path} exists with other content: choose another file, or delete it")


def is_page(path: Path) -> bool:
    """Whether a file is a web page that qstep wrote. Its head says so."""
    with path.open("rb") as file:
        return b'<meta name="generator" content="qstep">' in file.read(1000)


def _paths(value: Any) -> Iterator[str | Path]:
    if isinstance(value, str | Path):
        yield value
    elif isinstance(value, Mapping | list):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _paths(item)
