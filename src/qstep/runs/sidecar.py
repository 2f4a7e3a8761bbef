"""The sidecar of a stage's rows, `<name>.meta.json`: which stage and settings made them, and whether all are there."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import qstep
from qstep.data import canonical_json
from qstep.data.jsonl import parse_row

Meta = dict[str, Any]
"""What a sidecar holds."""

State = Literal["new", "resumed", "extended", "complete"]
"""What a stage finds: no rows, a part of its rows, rows of smaller settings, or all of its rows."""


class SettingsChanged(ValueError):
    """The rows on disk were made with other settings than the current ones.

    difference: the path, and the settings that differ with their values. names: those settings.
    """

    def __init__(self, difference: str, advice: str, names: Iterable[str] = ()) -> None:
        super().__init__(f"{difference}\n{advice}")
        self.difference = difference
        self.names = frozenset(names)


def begins(path: Path) -> bool:
    """Whether a stage that writes `path` begins: no rows are there, and no stage says that it finished there."""
    has_rows = path.exists() and path.stat().st_size > 0
    return not has_rows and not (sidecar(path).exists() and read_meta(path)["complete"])


def state_of(path: Path, asked: Meta, may_grow: Collection[str] = ()) -> tuple[State, Meta]:
    """What a stage with these settings finds at `path`, and the sidecar that it continues with.

    Raises:
        SettingsChanged: another stage or other settings made the rows.
        ValueError: there are rows, but their sidecar is missing or broken.
    """
    if begins(path):
        return "new", asked  # there are no rows yet, so old settings do not matter
    meta = read_meta(path)
    if meta["fingerprint"] != asked["fingerprint"] and _grows(path, meta, asked, may_grow):
        return "extended", asked
    return ("complete" if meta["complete"] else "resumed"), meta


def outcome(state: str, rows: int) -> str:
    """What opening a stage of this state with so many complete rows would do, in words."""
    if state == "new":
        return "new"
    return f"complete with {rows} rows: left unchanged" if state == "complete" else f"{state} after {rows} rows"


def sidecar(path: Path) -> Path:
    """The sidecar's path. Raises ValueError if `path` does not end in .jsonl."""
    if path.suffix != ".jsonl":
        raise ValueError(f"{path} is not a .jsonl file, but a stage writes rows: give a name that ends in .jsonl")
    return path.with_suffix(".meta.json")


def new_meta(stage: str, settings: Mapping[str, Any]) -> Meta:
    """The sidecar of a stage that begins."""
    identity = canonical_json({"stage": stage, "settings": dict(settings)})
    return {
        **json.loads(identity),
        "fingerprint": hashlib.sha256(identity).hexdigest(),
        "complete": False,
        "qstep_version": qstep.__version__,
    }


def read_meta(path: Path) -> Meta:
    """The sidecar of the rows at `path`. Raises ValueError if it is missing or broken."""
    meta_path = sidecar(path)
    if not meta_path.exists():
        raise ValueError(
            f"{path} has rows but no {meta_path.name}, so their settings are unknown: restore that file, or choose "
            "another output"
        )
    try:
        meta = parse_row(meta_path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{meta_path}: {error}; restore it, or delete it and {path.name}") from None
    if missing := {"stage", "settings", "fingerprint", "complete"} - meta.keys():
        raise ValueError(f"{meta_path} lacks {sorted(missing)}; restore it, or delete it and {path.name}")
    return meta


def _grows(path: Path, old: Mapping[str, Any], new: Mapping[str, Any], may_grow: Collection[str]) -> bool:
    """Whether the run is longer now. Raises SettingsChanged if any other setting has changed."""
    before = _flat({"stage": old["stage"], **old["settings"]})
    after = _flat({"stage": new["stage"], **new["settings"]})
    for name, held in before.items():
        if held in (f"{after.get(name)}.0", after.get(name, "").removesuffix(".0")):
            before[name] = after[name]  # the command line reads 0 where Python has 0.0
    grown = {n for n in may_grow if n in before and n in after and float(before[n]) < float(after[n])}
    if before.keys() == after.keys() and all(before[n] == after[n] for n in before.keys() - grown):
        return bool(grown)
    names = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    changes = [f"  {name}: {before.get(name, '(absent)')} -> {after.get(name, '(absent)')}" for name in names]
    raise SettingsChanged(
        f"{path} was made with other settings:\n" + "\n".join(changes),
        f"Choose another output, or delete {path.name} and {sidecar(path).name}",
        names,
    )


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings as `outer.inner` -> JSON."""
    flat: dict[str, str] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = json.dumps(value, ensure_ascii=False)
    return flat
