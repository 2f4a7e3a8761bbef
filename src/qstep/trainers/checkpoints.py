"""Checkpoints that say whether they are whole, and of which settings they are.

A marker, written last, names a folder's files, their sizes and hashes, and the settings of the run. A folder without
one, or with a file that differs from it, was half-written or damaged since, and no run goes on from it.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers import Trainer
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from qstep.data import canonical_json, file_fingerprint, sync, write_json
from qstep.models.loading import MARKER

_VERSION = 1


@dataclass(frozen=True)
class Checkpoint:
    """The folder `checkpoint-<step>` of a run."""

    path: Path
    step: int

    @classmethod
    def at(cls, path: Path) -> Checkpoint:
        """Raises ValueError if the folder is not called `checkpoint-<step>`."""
        match = re.fullmatch(rf"{PREFIX_CHECKPOINT_DIR}-(\d+)", path.name)
        if match is None:
            raise ValueError(f"{path}: a checkpoint is a folder called {PREFIX_CHECKPOINT_DIR}-<step>")
        return cls(path, int(match[1]))


def fingerprint(settings: Mapping[str, Any]) -> str:
    """SHA-256 of the settings."""
    return hashlib.sha256(canonical_json(dict(settings))).hexdigest()


def seal(folder: Path, settings: Mapping[str, Any], files: list[Path] | None = None) -> None:
    """Puts the files of a folder (all that are in it by default) on the disk, and then its marker."""
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
    """Why a run of these settings cannot use a folder's weights: what it lacks, or what differs. None if it can."""
    try:
        marker = json.loads((folder / MARKER).read_text())
        version, made_with, files = marker["version"], marker["settings"], marker["files"]
        expected = {name: (entry["size"], entry["sha256"]) for name, entry in files.items()}
    except FileNotFoundError:
        return f"it has no {MARKER}, so it was not written to its end"
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"its {MARKER} is damaged"
    if version != _VERSION:
        return f"its {MARKER} is of version {version}, and this is {_VERSION}"
    if fingerprint(made_with) != marker.get("fingerprint"):
        return f"its {MARKER} is damaged"
    if marker["fingerprint"] != fingerprint(settings):
        changed = sorted(name for name in {*made_with, *settings} if made_with.get(name) != settings.get(name))
        return f"it is of other settings ({', '.join(changed)})"
    for name, (size, digest) in expected.items():
        file = folder / name
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != size:
            return f"{name} has {file.stat().st_size} bytes instead of {size}"
        if file_fingerprint(file) != digest:
            return f"{name} was changed since it was written"
    return None


def why_not_resumable(folder: Path, settings: Mapping[str, Any]) -> str | None:
    """Why a run cannot go on from a checkpoint; None if it can. One of weights alone can only be loaded."""
    reason = why_unusable(folder, settings)
    lacking = [part for part in ("optimizer", "scheduler", "rng_state") if not any(folder.glob(f"{part}*"))]
    if reason is None and lacking:
        return f"it was saved without {', '.join(lacking)} (save_only_model)"
    return reason


def settings_of_marker(folder: Path) -> dict[str, Any] | None:
    """The settings a checkpoint was made with; None where its marker cannot be read."""
    try:
        settings = json.loads((folder / MARKER).read_text())["settings"]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    return settings if isinstance(settings, dict) else None


def checkpoints(output_dir: Path) -> list[Checkpoint]:
    """The checkpoints of a folder, whole or not, the oldest first."""
    folders = [path for path in output_dir.glob(f"{PREFIX_CHECKPOINT_DIR}-*") if path.is_dir()]
    named = [path for path in folders if path.name.removeprefix(f"{PREFIX_CHECKPOINT_DIR}-").isdecimal()]
    return sorted(map(Checkpoint.at, named), key=lambda checkpoint: checkpoint.step)


def newest_usable(output_dir: Path, settings: Mapping[str, Any]) -> tuple[Checkpoint | None, dict[Path, str]]:
    """The newest checkpoint that a run of these settings can go on from, and why each newer one is passed over."""
    passed_over: dict[Path, str] = {}
    for checkpoint in reversed(checkpoints(output_dir)):
        reason = why_not_resumable(checkpoint.path, settings)
        if reason is None:
            return checkpoint, passed_over
        passed_over[checkpoint.path] = reason
    return None, passed_over


def remove(folder: Path) -> None:
    """Deletes a checkpoint, its marker first, so that what a kill leaves of it is not taken for whole."""
    (folder / MARKER).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def rotate(newest: Checkpoint, settings: Mapping[str, Any], limit: int | None, best: str | None) -> None:
    """Deletes the oldest checkpoints before `newest` beyond `limit`, but the best one and those of other settings."""
    if limit is None or limit <= 0:
        return
    older = [
        checkpoint.path
        for checkpoint in checkpoints(newest.path.parent)
        if checkpoint.step < newest.step and settings_of_marker(checkpoint.path) == dict(settings)
    ]
    for path in older[: max(0, len(older) - (limit - 1))]:
        if best is None or os.path.realpath(path) != os.path.realpath(best):
            remove(path)


class NotWritten(RuntimeError):
    """A model or its checkpoint could not be written; the disk is full, say."""


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Around what writes a model: its libraries' errors name neither the folder nor what to do.

    Raises NotWritten.
    """
    try:
        yield
    except NotWritten:
        raise
    except (SafetensorError, RuntimeError, OSError) as error:
        no_room = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
        by_torch = isinstance(error, RuntimeError) and re.search(
            "PytorchStreamWriter|unexpected pos|iostream error", str(error)
        )
        if not (no_room or by_torch or isinstance(error, SafetensorError)):
            raise
        free = shutil.disk_usage(folder.parent).free
        raise NotWritten(
            f"{folder} could not be written: {str(error).partition(chr(10))[0]}. {free / 1e9:.1f} GB are free on this "
            "disk. Make room, and run the same command again: it resumes from the newest complete checkpoint"
        ) from error


@contextmanager
def sealed(trainer: Trainer, settings: Mapping[str, Any]) -> Iterator[None]:
    """Around what writes the trainer's checkpoint on every process: a marker at its end, and only then the rotation."""
    args, step = trainer.args, trainer.state.global_step
    checkpoint = Checkpoint(Path(str(args.output_dir)) / f"{PREFIX_CHECKPOINT_DIR}-{step}", step)
    if args.should_save:
        remove(checkpoint.path)  # what a killed run, or one of other settings, left there
    trainer.accelerator.wait_for_everyone()
    limit, args.save_total_limit = args.save_total_limit, None
    try:
        with writing(checkpoint.path):
            yield
    finally:
        args.save_total_limit = limit
    trainer.accelerator.wait_for_everyone()
    if args.should_save:
        seal(checkpoint.path, settings)
        rotate(checkpoint, settings, limit, trainer.state.best_model_checkpoint)
    trainer.accelerator.wait_for_everyone()
