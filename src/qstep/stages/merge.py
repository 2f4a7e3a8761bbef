"""`qstep merge`: an adapter in, the plain checkpoint that computes the same out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from qstep.runs.fingerprints import model_fingerprint
from qstep.runs.folders import written_whole


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
    from qstep.models.inference import hide_loading_bars

    adapter, output = config.model_name_or_path, config.output_dir
    if not adapter.is_dir():
        raise ValueError(f"{adapter} is not a folder; give the output_dir of a training with --use_peft true")
    settings = {"merge": model_fingerprint(str(adapter))}
    hide_loading_bars()
    return written_whole(output, settings, f"merge of {adapter}", lambda folder: merge_adapter(adapter, folder))
