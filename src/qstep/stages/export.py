"""`qstep export`: a scorer with a linear head in, the plain token classifier that computes the same out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from qstep.runs.folders import written_whole
from qstep.scoring.options import LocalScorerOptions


@dataclass(kw_only=True)
class ExportConfig(LocalScorerOptions):
    """Makes a checkpoint that vLLM serves without a line of its own code: an `AutoModelForTokenClassification` with one
    output and qstep's step contract.

    It is read again and compared: where a Q differs by more than 1e-4 of its size (in half precision, 0.05), nothing is
    written.

    Args:
        output_dir: the folder to write; it is there whole or not at all.
    """

    output_dir: Path


def export(config: ExportConfig) -> Path:
    """Runs the stage and returns its output; an output of the same scorer is left as it is.

    Raises:
        ValueError: the scorer's Q is no linear function of a state that the step contract can name, or the export does
            not give the same Qs; or the output is something else, or was changed.
    """
    from qstep.scoring.export import export_scorer

    if config.output_dir.resolve() == Path(config.scorer).resolve():
        raise ValueError(f"--output_dir {config.output_dir} is the scorer's own folder: give another")
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
