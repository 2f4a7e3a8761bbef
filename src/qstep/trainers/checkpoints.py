"""The checkpoints of a training: finding the newest to resume from, and deleting old ones."""

from __future__ import annotations

import errno
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

from qstep.runs.seals import MARKER, seal, settings_of_marker, why_unusable


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
            raise ValueError(f"{path} is not a checkpoint: give a folder called {PREFIX_CHECKPOINT_DIR}-<step>")
        return cls(path, int(match[1]))


def why_not_resumable(folder: Path, settings: Mapping[str, Any]) -> str | None:
    """Why a run cannot resume from a checkpoint; None if it can. A checkpoint of weights only is not enough."""
    reason = why_unusable(folder, settings)
    lacking = [part for part in ("optimizer", "scheduler", "rng_state") if not any(folder.glob(f"{part}*"))]
    if reason is None and lacking:
        return f"it was saved without {', '.join(lacking)} (save_only_model)"
    return reason


def checkpoints(output_dir: Path) -> list[Checkpoint]:
    """The checkpoints of a folder, complete or not, with the oldest first."""
    folders = [path for path in output_dir.glob(f"{PREFIX_CHECKPOINT_DIR}-*") if path.is_dir()]
    named = [path for path in folders if path.name.removeprefix(f"{PREFIX_CHECKPOINT_DIR}-").isdecimal()]
    return sorted(map(Checkpoint.at, named), key=lambda checkpoint: checkpoint.step)


def newest_usable(output_dir: Path, settings: Mapping[str, Any]) -> tuple[Checkpoint | None, dict[Path, str]]:
    """The newest checkpoint that a run with these settings can resume from, and why newer ones are skipped."""
    skipped: dict[Path, str] = {}
    for checkpoint in reversed(checkpoints(output_dir)):
        reason = why_not_resumable(checkpoint.path, settings)
        if reason is None:
            return checkpoint, skipped
        skipped[checkpoint.path] = reason
    return None, skipped


def remove(folder: Path) -> None:
    """Deletes a checkpoint. Its marker goes first, so that a kill meanwhile leaves nothing that looks complete."""
    (folder / MARKER).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def rotate(newest: Checkpoint, settings: Mapping[str, Any], limit: int | None, best: str | None) -> None:
    """Deletes the oldest checkpoints beyond `limit`, except newer ones and those with other settings.

    The newest and the best one are kept, and count.
    """
    if limit is None or limit <= 0:
        return
    older = [
        checkpoint.path
        for checkpoint in checkpoints(newest.path.parent)
        if checkpoint.step < newest.step and settings_of_marker(checkpoint.path) == dict(settings)
    ]
    others = [path for path in older if best is None or os.path.realpath(path) != os.path.realpath(best)]
    for path in others[: max(0, len(older) - (limit - 1))]:
        remove(path)


class NotWritten(RuntimeError):
    """A model or its checkpoint could not be written, for example because the disk is full."""


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turns errors of the code inside, which writes a model, into NotWritten.

    The libraries' own errors name neither the folder nor a remedy.
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
            f"{folder} could not be written: {str(error).partition(chr(10))[0]}. This disk has {free / 1e9:.1f} GB "
            "free. Make room, and run the same command again: it resumes from the newest complete checkpoint"
        ) from error


@contextmanager
def sealed(trainer: Trainer, settings: Mapping[str, Any]) -> Iterator[None]:
    """Runs the code inside, which writes a checkpoint, then adds the marker and deletes old checkpoints."""
    args, step = trainer.args, trainer.state.global_step
    checkpoint = Checkpoint(Path(str(args.output_dir)) / f"{PREFIX_CHECKPOINT_DIR}-{step}", step)
    if args.should_save:
        remove(checkpoint.path)  # a killed run, or one with other settings, may have left it
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
