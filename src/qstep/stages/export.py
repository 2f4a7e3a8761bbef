"""`qstep export`: turns a scorer with a linear head into a plain token classifier that computes the same."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from qstep.runs.folders import written_whole
from qstep.runs.options import OutputFolder
from qstep.scoring.options import LocalScorerOptions


@dataclass(kw_only=True)
class ExportConfig(LocalScorerOptions):
    """Exports a scorer as an `AutoModelForTokenClassification` with one output, which vLLM serves without extra code.

    The checkpoint includes qstep's step contract. The export is loaded again and compared with the scorer. If a Q
    differs by more than 1e-4 of its size (0.05 in half precision), nothing is written.

    Args:
        output_dir: the folder to write. It appears only once it is complete.
    """

    output_dir: OutputFolder


def export(config: ExportConfig) -> Path:
    """Runs the stage and returns its output. An existing export of the same scorer is left as it is.

    Raises:
        ValueError: the scorer's Q is not a linear function of a state that the step contract can name, or the export
            computes other Qs, or the output folder has other content or was changed.
    """
    from qstep.scoring.export import export_scorer

    if config.output_dir.resolve() == Path(config.scorer).resolve():
        raise ValueError(f"--output_dir {config.output_dir} is the scorer's own folder: give another folder")
    settings = {
        "export": config.scorer_fingerprint(),
        "kind": config.scorer_kind,
        "options": config.scorer_options,
        "dtype": config.dtype,
    }
    return written_whole(
        config.output_dir,
        settings,
        f"export of {config.scorer}",
        lambda folder: export_scorer(config.load_scorer(), folder),
    )
