"""`qstep card`: a trained model and what it was judged by in, the README.md that the Hub shows of it out."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from qstep.runs.fingerprints import model_fingerprint
from qstep.runs.options import OutputFile
from qstep.runs.outputs import refuse_foreign
from qstep.runs.progress import say_written

if TYPE_CHECKING:
    from qstep.evals import PolicyEvaluation, StepJudgement


@dataclass(kw_only=True)
class CardConfig:
    """Writes the model card of a trained model anew, with the results it was judged by as the Hub reads them.

    `qstep train` leaves a card without results. Results that say they are of another model are refused.

    Args:
        model: the folder written by `qstep train`.
        results: `results.json` of `qstep evaluate processbench` or `qstep evaluate`, one or a list.
        datasets: ids of data sets on the Hub that the training rows come from, for its links.
        license: of the weights, as the Hub names it (`apache-2.0`).
        output: the file to write; the folder's README.md by default, which is what the Hub shows.
    """

    model: Path
    results: list[Path] | Path | None = None
    datasets: list[str] = field(default_factory=list)
    license: str | None = None
    output: OutputFile | None = None


def card(config: CardConfig) -> Path:
    """Runs the stage and returns the card.

    Raises:
        ValueError: the folder is none that `qstep train` finished, its README.md is somebody's own, or results are of
            another model or no results.
    """
    from qstep.report.card import MARKER, write_card

    fingerprint = model_fingerprint(str(config.model))  # refuses what training has not finished
    log = config.model / "train_log.meta.json"
    if not log.exists():
        raise ValueError(f"{config.model} has no {log.name}: give the output_dir of `qstep train`")
    meta = json.loads(log.read_text(encoding="utf-8"))
    if "base_model" not in meta.get("summary", {}):
        raise ValueError(f"{config.model} was trained by a qstep that did not note what a card says of its data")
    output = config.output or config.model / "README.md"
    refuse_foreign("output", output, lambda path: MARKER in path.read_text(encoding="utf-8"))
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
    """Results of this very model. Raises ValueError, naming the file, otherwise."""
    from qstep.evals import PolicyEvaluation, StepJudgement, read_result

    of = read_result(path, StepJudgement, PolicyEvaluation)
    if isinstance(of, StepJudgement):
        same = of.scorer == fingerprint
    else:
        same = Path(of.provenance["settings"]["model_name_or_path"]).resolve() == model.resolve()
    if not same:
        raise ValueError(f"{path} is of another model than {model}: judge this one")
    return of
