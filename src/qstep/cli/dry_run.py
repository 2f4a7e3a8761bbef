"""`--dry_run`: what a command would read and write, and its settings. No model is loaded, and no output is written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import MISSING, fields
from enum import Enum
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml

from qstep.data import inputs_of
from qstep.data.hub import is_hub_id
from qstep.data.inputs import is_several
from qstep.runs.command_line import SECRETS
from qstep.runs.options import outputs_of
from qstep.stages.commands import Command
from qstep.words import counted

_SHOWN = (int, float, str, Path, Enum, list, tuple, Mapping)

_COUNTED_BYTES = 2**30
"""The largest file whose rows are counted: about a second."""


def describe(command: Command, configs: Sequence[Any]) -> None:
    """Prints what the command would do with these options. Raises what the command would raise before it begins."""
    if command.module == "qstep.recipes.command":
        import_module(command.module).show_plan(command.name, *configs)
        return
    outputs = {name for config in configs for name in outputs_of(type(config))}
    read, written = dict(_read(configs, outputs)), dict(_written(configs, outputs))
    print(f"Dry run of qstep {command.name}: nothing is written, no model is loaded.")
    for title, entries in (("reads", read), ("writes", written)):
        print(f"{title}:" if entries else f"{title}: nothing")
        for name, text in entries.items():
            print(f"  {name:24} {text}")
    print("settings (the others have their defaults; --print_config prints all):")
    print(_indented(yaml.safe_dump(_chosen(configs), sort_keys=False, allow_unicode=True)))
    if written:
        print(f"output: {_outcome(command, configs)}")


def _outcome(command: Command, configs: Sequence[Any]) -> str:
    """What would become of the output: new, resumed, complete. Raises ValueError where it would be refused."""
    from qstep.runs.dry_run import WouldWrite, dry_run

    try:
        with dry_run():
            command.run(configs)
    except WouldWrite as end:
        return f"{end.path} would be {end.outcome}" if end.outcome != "new" else f"{end.path} is new"
    raise AssertionError(f"qstep {command.name} wrote in a dry run")


def _values(configs: Sequence[Any]) -> dict[str, Any]:
    return {f.name: getattr(config, f.name) for config in configs for f in fields(config)}


def _read(configs: Sequence[Any], outputs: Set[str]) -> Iterator[tuple[str, str]]:
    """Each file and folder that an option names, with its size."""
    for name, value in _values(configs).items():
        if name not in outputs:
            for key, path in _paths(name, value):
                yield key, f"{path}  ({_size(path)})"


def _paths(name: str, value: Any) -> Iterator[tuple[str, Path]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _paths(f"{name}.{key}", item)
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            yield from _paths(f"{name}[{number}]", item)
    elif isinstance(value, Path) or (isinstance(value, str) and value and _exists(value)):
        yield name, Path(value)


def _exists(text: str) -> bool:
    try:
        return Path(text).exists()
    except (OSError, ValueError):  # too long, or with a zero byte
        return False


def _written(configs: Sequence[Any], outputs: Set[str]) -> Iterator[tuple[str, str]]:
    for name in sorted(outputs):
        value = _values(configs)[name]
        if value is not None:
            path = Path(value)
            yield name, f"{path}  ({_size(path) + ', exists' if path.exists() else 'new'})"


def _size(path: Path) -> str:
    """A file's size and number of rows, or the size of several files or a folder."""
    if path.is_dir() or is_several(path):
        found = path.rglob("*") if path.is_dir() else inputs_of(path)
        files = [file for file in found if file.is_file()]
        return f"{counted(len(files), 'file')}, {_bytes(sum(file.stat().st_size for file in files))}"
    if not path.exists():
        return "a data set of the Hub" if is_hub_id(path) else "missing"
    size = path.stat().st_size
    if path.suffix == ".jsonl" and size <= _COUNTED_BYTES:
        from qstep.data.jsonl import count_rows

        return f"{counted(count_rows(path), 'row')}, {_bytes(size)}"
    return _bytes(size)


def _bytes(size: float) -> str:
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} GB"


def _chosen(configs: Sequence[Any]) -> dict[str, Any]:
    """The options that differ from their defaults, as YAML has them."""
    chosen = {}
    for config in configs:
        for f in fields(config):
            value = getattr(config, f.name)
            default = f.default if f.default_factory is MISSING else f.default_factory()
            worked_out = default is None and not value  # by the config itself, as some of the trainer's are
            if f.init and value != default and not worked_out and isinstance(value, _SHOWN):
                chosen[f.name] = "(not shown)" if f.name in SECRETS else _plain(value)
    return chosen


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Enum):
        return _plain(value.value)
    return str(value) if isinstance(value, Path) else value


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())
