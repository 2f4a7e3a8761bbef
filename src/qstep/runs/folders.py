"""Writing a folder completely, or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from qstep.runs.dry_run import WouldWrite, is_dry_run
from qstep.runs.fingerprints import model_files
from qstep.runs.progress import say_complete, say_written
from qstep.runs.seals import seal, why_unusable


def written_whole(
    output: Path,
    settings: Mapping[str, Any],
    name: str,
    write: Callable[[Path], None],
    files: Callable[[Path], list[Path]] = model_files,
) -> Path:
    """Calls `write` on a temporary folder, which becomes `output` when it is complete.

    An existing output with the same settings is left unchanged.

    Args:
        name: what the folder contains, for the message.
        files: returns the files of the folder that must not change later.

    Raises:
        ValueError: the output exists with other content, or was changed.
        WouldWrite: this is a dry run, and nothing was written.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        reason = why_unusable(output, settings)
        if reason is not None:
            raise ValueError(f"{output} is not the {name}: {reason}. Choose another --output_dir, or delete it")
        if is_dry_run():
            raise WouldWrite(output, "complete: left unchanged")
        say_complete(output)
        return output
    if is_dry_run():
        raise WouldWrite(output, "new")
    unfinished = output.with_name(f".{output.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    try:
        write(unfinished)
        seal(unfinished, settings, files(unfinished))
        unfinished.replace(output)
    except BaseException:
        shutil.rmtree(unfinished)
        raise
    say_written(output)
    return output
