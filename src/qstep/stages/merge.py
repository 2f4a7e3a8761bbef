"""`qstep merge`: an adapter in, the plain checkpoint that computes the same out."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from qstep.stages.inputs import hide_loading_bars, model_files, model_fingerprint


@dataclass(kw_only=True)
class MergeConfig:
    """Merges an adapter that `qstep train --use_peft true` wrote into the weights it stands on.

    Args:
        model_name_or_path: the folder of the adapter.
        output_dir: the folder to write; it is there whole or not at all.
    """

    model_name_or_path: Path
    output_dir: Path


def merge(config: MergeConfig) -> Path:
    """Runs the stage and returns its output; an output of the same adapter is left as it is.

    Raises:
        ValueError: the folder holds no finished adapter, or the output is something else, or was changed.
    """
    from qstep.models import merge_adapter
    from qstep.trainers.checkpoints import seal, why_unusable

    adapter, output = config.model_name_or_path, config.output_dir
    if not adapter.is_dir():
        raise ValueError(f"{adapter} is not a folder; give the output_dir of a training with --use_peft true")
    settings = {"merge": model_fingerprint(str(adapter))}
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        reason = why_unusable(output, settings)
        if reason is not None:
            raise ValueError(f"{output} is no merge of {adapter}: {reason}. Choose another --output_dir, or delete it")
        return output
    hide_loading_bars()
    unfinished = output.with_name(f".{output.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    try:
        merge_adapter(adapter, unfinished)
        seal(unfinished, settings, model_files(unfinished))
        unfinished.replace(output)
    except BaseException:
        shutil.rmtree(unfinished)
        raise
    return output
