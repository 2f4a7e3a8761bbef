"""Markers in folders, which show whether a folder is complete and with which settings it was made.

A marker is written last. It lists a folder's files with their sizes and hashes, and the settings of the run. A folder
without a marker was not written completely. A file that differs from the marker was damaged. No run uses such folders.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qstep.data import canonical_json, file_fingerprint, sync, write_json

MARKER = "qstep_checkpoint.json"
"""The marker: the last file that is written into a folder."""

_VERSION = 1


def fingerprint(settings: Mapping[str, Any]) -> str:
    """SHA-256 of the settings."""
    return hashlib.sha256(canonical_json(dict(settings))).hexdigest()


def seal(folder: Path, settings: Mapping[str, Any], files: list[Path] | None = None) -> None:
    """Flushes the files of a folder (by default all of them) to the disk, and then writes its marker."""
    chosen = sorted(file for file in folder.rglob("*") if file.is_file() and file.name != MARKER)
    contents = {}
    for file in chosen if files is None else files:
        sync(file)
        contents[str(file.relative_to(folder))] = {"size": file.stat().st_size, "sha256": file_fingerprint(file)}
    for inner in {file.parent for file in chosen}:
        sync(inner)
    sync(folder.parent)
    marker = {"version": _VERSION, "fingerprint": fingerprint(settings), "settings": dict(settings), "files": contents}
    write_json(folder / MARKER, marker)


def why_unusable(folder: Path, settings: Mapping[str, Any]) -> str | None:
    """Why a run with these settings cannot use a folder's weights; None if it can."""
    try:
        marker = json.loads((folder / MARKER).read_text())
        version, made_with, files = marker["version"], marker["settings"], marker["files"]
        expected = {name: (entry["size"], entry["sha256"]) for name, entry in files.items()}
    except FileNotFoundError:
        return f"it has no {MARKER}, so it was not written completely"
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"its {MARKER} is damaged"
    if version != _VERSION:
        return f"its {MARKER} has version {version}, but this qstep reads version {_VERSION}"
    if fingerprint(made_with) != marker.get("fingerprint"):
        return f"its {MARKER} is damaged"
    now = json.loads(canonical_json(dict(settings)))
    if made_with != now:  # 0 is 0.0: the command line reads it where Python has 0.0
        names = sorted(name for name in {*made_with, *now} if made_with.get(name) != now.get(name))
        changed = [_change(name, made_with.get(name), now.get(name)) for name in names]
        return f"it was made with other settings ({', '.join(changed)})"
    for name, (size, digest) in expected.items():
        if (reason := why_changed(folder / name, size, digest)) is not None:
            return f"{name} {reason}"
    return None


def _change(name: str, before: Any, now: Any) -> str:
    plain = all(isinstance(value, int | float | str | None) for value in (before, now))
    return f"{name}: {before} -> {now}" if plain else name


def why_changed(file: Path, size: int, sha256: str) -> str | None:
    """How a file differs from what a marker records of it; None if it does not."""
    if not file.is_file():
        return "is missing"
    if file.stat().st_size != size:
        return f"has {file.stat().st_size} bytes instead of {size}"
    return None if file_fingerprint(file) == sha256 else "has changed since it was written"


def settings_of_marker(folder: Path) -> dict[str, Any] | None:
    """The settings in a checkpoint's marker; None if it cannot be read."""
    try:
        settings = json.loads((folder / MARKER).read_text())["settings"]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    return settings if isinstance(settings, dict) else None
