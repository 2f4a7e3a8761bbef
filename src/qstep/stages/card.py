"""`qstep card`: writes the model card of a trained model, with its results, for the Hub."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from qstep.runs.dry_run import stop_dry_run
from qstep.runs.fingerprints import model_fingerprint
from qstep.runs.options import Options, Output
from qstep.runs.outputs import refuse_foreign
from qstep.runs.progress import say_written
from qstep.runs.sidecar import sidecar
from qstep.runs.training_log import TRAINING_LOG

if TYPE_CHECKING:
    from qstep.evals import PolicyEvaluation, StepJudgement


@dataclass(kw_only=True)
class CardConfig(Options):
    """Rewrites the model card of a trained model, and adds evaluation results in the Hub's format.

    The card that `qstep train` writes has no results. Results of another model are refused.

    Args:
        model: the folder written by `qstep train`.
        results: `results.json` of `qstep evaluate processbench` or `qstep evaluate`, one file or a list.
        datasets: Hub ids of the data sets that the training rows come from. The Hub links them.
        license: license of the weights, as the Hub names it (`apache-2.0`).
        output: the file to write; README.md in the model's folder by default, which the Hub shows.
    """

    model: Path
    results: list[Path] | Path | None = None
    datasets: list[str] = field(default_factory=list)
    license: str | None = None
    output: Annotated[Path, Output("{stage}.md")] | None = None


def card(config: CardConfig) -> Path:
    """Runs the stage and returns the card.

    Raises:
        ValueError: `qstep train` has not finished this folder, its README.md was not written by qstep, or a result file
            is of another model or not a result file.
    """
    from qstep.report.card import MARKER, write_card

    fingerprint = model_fingerprint(str(config.model))  # refuses a folder that training has not finished
    log = sidecar(config.model / TRAINING_LOG)
    if not log.exists():
        raise ValueError(f"{config.model} has no {log.name}: give the output_dir of `qstep train`")
    meta = json.loads(log.read_text(encoding="utf-8"))
    if "base_model" not in meta.get("summary", {}):
        raise ValueError(
            f"{config.model} was trained by an older qstep, which did not record its data. Train it again for a card"
        )
    output = config.output or config.model / "README.md"
    refuse_foreign("output", output, lambda path: MARKER in path.read_text(encoding="utf-8"))
    stop_dry_run(output)
    paths = [config.results] if isinstance(config.results, Path) else config.results or []
    found = [_checked_results(path, config.model, fingerprint) for path in paths]
    write_card(
        config.model,
        meta["settings"],
        meta["summary"],
        output=output,
        results=found,
        datasets=config.datasets,
        license=config.license,
    )
    say_written(output)
    return output


def _checked_results(path: Path, model: Path, fingerprint: str) -> StepJudgement | PolicyEvaluation:
    """The results in the file. Raises ValueError, naming the file, if they are of another model."""
    from qstep.evals import PolicyEvaluation, StepJudgement, read_result

    result = read_result(path, StepJudgement, PolicyEvaluation)
    judged = result.scorer if isinstance(result, StepJudgement) else result.policy
    if judged is None:
        raise ValueError(f"{path} does not say which files the policy had: evaluate it again with this version")
    if judged != fingerprint:
        raise ValueError(f"{path} has results of another model than {model}. Evaluate this model and give its results")
    return result
