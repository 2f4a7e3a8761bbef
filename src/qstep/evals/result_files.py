"""Reads, checks and writes all files of results. A file names its `kind`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from qstep.data import write_json
from qstep.evals.results import (
    Audit,
    BestOfN,
    Page,
    PolicyEvaluation,
    RecipeResult,
    Result,
    SearchComparison,
    StepJudgement,
    StudyAnswer,
)
from qstep.words import listed

_COMMANDS = {
    Audit: "qstep audit",
    BestOfN: "qstep best-of-n",
    SearchComparison: "qstep compare-search",
    PolicyEvaluation: "qstep evaluate",
    StepJudgement: "qstep evaluate processbench",
    Page: "qstep report --summary",
    StudyAnswer: "qstep run",
    RecipeResult: "qstep run",
}


def read_result(path: Path, *wanted: type[Result]) -> Any:
    """The result in a file, which must be of one of the wanted types.

    Raises ValueError, naming the file, if it has no result, a result of another type, or a malformed one.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        what = "holds rows, one on each line" if path.suffix == ".jsonl" else f"is not JSON ({error})"
        by = listed([f"`{_COMMANDS[kind]}`" for kind in wanted], "or")
        raise ValueError(f"{path} {what}: give a result, which {by} writes") from None
    found = _type_of(value)
    if found is None or found not in wanted:
        raise ValueError(f"{path} is not a result of {listed([f'`{_COMMANDS[kind]}`' for kind in wanted], 'or')}")
    return structure(found, value, str(path))


def write_result(path: Path, result: Result) -> None:
    """Replaces `path` by the result as JSON, with its `kind` first."""
    write_json(path, {"kind": result.kind, **as_json(result)})


def holds(*wanted: type[Result]) -> Callable[[Path], bool]:
    """A check whether a file holds a result of one of these types, so that a command may overwrite it."""

    def is_one(path: Path) -> bool:
        with path.open("rb") as file:
            if file.read(2) != b"{\n":  # files of rows, which may be large, begin differently
                return False
        try:
            return _type_of(json.loads(path.read_bytes())) in wanted
        except ValueError:
            return False

    return is_one


def _type_of(value: Any) -> type[Result] | None:
    kinds: dict[Any, type[Result]] = {result.kind: result for result in get_args(Result)}
    kind = value.get("kind") if isinstance(value, dict) else None
    return kinds.get(kind) if isinstance(kind, str) else None


def as_json(value: Any) -> Any:
    """A result, or a part of one, as JSON values."""
    if isinstance(value, Mapping):
        return {name: as_json(item) for name, item in value.items()}
    if isinstance(value, list):
        return [as_json(item) for item in value]
    if not is_dataclass(value):
        return value
    found: dict[str, Any] = {}
    for field in fields(value):
        item = getattr(value, field.name)
        if "inline" in field.metadata:
            found |= as_json(item)
        elif item is not None or field.default is not None:
            found[field.name] = as_json(item)
    return found


def structure(wanted: Any, value: Any, where: str) -> Any:
    """Converts JSON to the wanted type: a dataclass, or the type of one of its fields.

    Unknown entries are ignored. Raises ValueError, naming `where`, for values of other types.
    """
    kind, inner = get_origin(wanted), get_args(wanted)
    if kind in (Union, UnionType) and NoneType in inner:
        (some,) = (option for option in inner if option is not NoneType)
        return None if value is None else structure(some, value, where)
    if is_dataclass(wanted):
        return _structured(wanted, value, where)
    if kind is dict and isinstance(value, Mapping):
        return {name: structure(inner[1], item, f"{where}[{name!r}]") for name, item in value.items()}
    if kind is list and isinstance(value, list):
        return [structure(inner[0], item, f"{where}[{number}]") for number, item in enumerate(value)]
    fits: Any = {float: (int, float), Any: object}.get(wanted, wanted if kind is UnionType else kind or wanted)
    if not isinstance(value, fits) or (isinstance(value, bool) and wanted in (int, float)):
        raise ValueError(f"{where} is {value!r}, not {_words(wanted)}")
    return value


def _structured(wanted: Any, value: Any, where: str) -> Any:
    if not isinstance(value, Mapping):
        raise ValueError(
            f"{where} is {value!r}, not a mapping with {', '.join(field.name for field in fields(wanted))}"
        )
    hints, found = _hints(wanted), dict[str, Any]()
    inline = {name for field in fields(wanted) for name in field.metadata.get("inline", ())}
    known = {field.name for field in fields(wanted) if "inline" not in field.metadata} | inline | {"kind"}
    for field in fields(wanted):
        if "inline" in field.metadata:
            names = field.metadata["inline"] or value.keys() - known
            item: Any = {name: value[name] for name in value if name in names}
            found[field.name] = structure(hints[field.name], item, where)
        elif field.name in value:
            found[field.name] = structure(hints[field.name], value[field.name], f"{where}[{field.name!r}]")
    try:
        return wanted(**found)
    except TypeError:
        missing = [field.name for field in fields(wanted) if field.name not in found and field.default is not None]
        raise ValueError(f"{where} has no {' and no '.join(missing)}") from None
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


@cache
def _hints(wanted: Any) -> dict[str, Any]:
    return get_type_hints(wanted)


def _words(wanted: Any) -> str:
    names = {float: "a number", int: "a whole number", str: "a string", bool: "true or false"}
    return names.get(wanted, "a list" if get_origin(wanted) is list else "a mapping")
