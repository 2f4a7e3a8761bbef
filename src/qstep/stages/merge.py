"""`qstep merge`: turns an adapter into a plain checkpoint that computes the same."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qstep.runs.fingerprints import model_fingerprint
from qstep.runs.folders import written_whole
from qstep.runs.options import Options, OutputFolder
from qstep.runs.seals import settings_of_marker


@dataclass(kw_only=True)
class MergeConfig(Options):
    """Merges an adapter that `qstep train --use_peft true` wrote into its base model, in float32.

    Args:
        model_name_or_path: the folder of the adapter.
        output_dir: the folder to write. It appears only once it is complete.
    """

    model_name_or_path: Path
    output_dir: OutputFolder


def merge(config: MergeConfig) -> Path:
    """Runs the stage and returns its output. An existing merge of the same adapter is left as it is.

    Raises:
        ValueError: the folder does not hold a finished adapter, or the output folder has other content or was changed.
    """
    from qstep.models import merge_adapter
    from qstep.models.inference import hide_loading_bars

    adapter, output = config.model_name_or_path, config.output_dir
    if not adapter.is_dir():
        raise ValueError(f"{adapter} is not a folder: give the --output_dir of a training with --use_peft true")
    trained = settings_of_marker(adapter) or {}
    settings: dict[str, Any] = {name: trained[name] for name in ("method", "beta", "reference") if name in trained}
    settings["merge"] = model_fingerprint(str(adapter))
    hide_loading_bars()
    return written_whole(output, settings, f"merge of {adapter}", lambda folder: merge_adapter(adapter, folder))
