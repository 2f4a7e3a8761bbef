"""`qstep score`: rows and a trained scorer in, a Q-value for each step out."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from qstep.stages.inputs import choose_device, finished, hide_loading_bars, model_fingerprint, settings_of
from qstep.stages.progress import bar
from qstep.types import Row

_ROWS_AT_ONCE = 64


@dataclass
class ScoreConfig:
    """Scores every step of every response.

    Adds `completions` (the steps, where the row has none yet), `q_values`, `score` (their aggregation by the
    scorer's own contract; null for a response without a step, which loses to every other) and `step_rewards`
    (the probabilities sigmoid(Q), for `qstep train dqo --process_rewards`).

    Args:
        input: rows written by `qstep sample`, `grade` or `annotate`.
        output: the JSONL file to write.
        model_name_or_path: a folder or Hub id written by `qstep train pqm|bce|mse|orm`.
        max_tokens: tokens computed at once; a prompt counts once for the rows that share it.
        device: cpu, cuda, or auto.
    """

    input: Path
    output: Path
    model_name_or_path: str
    max_tokens: int = 8192
    device: str = "auto"


def score(config: ScoreConfig) -> Path:
    """Runs the stage and returns its output."""
    from qstep.data import StageFile, count_rows, read_rows, split_steps
    from qstep.scoring import StepScorer
    from qstep.search import aggregate

    settings = settings_of(
        config,
        *("output", "max_tokens", "device"),
        input=finished(config.input),
        model=model_fingerprint(config.model_name_or_path),
    )
    with StageFile.open(config.output, stage="score", settings=settings) as file:
        if file.complete:
            return config.output
        hide_loading_bars()
        scorer = StepScorer.load(config.model_name_or_path, device=choose_device(config.device))
        contract = scorer.contract

        def with_steps(row: Row) -> Row:
            return (
                row
                if "completions" in row
                else {**row, "completions": split_steps(row["completion"], contract.step_separator)}
            )

        rows = (with_steps(row) for row in read_rows(config.input) if row["id"] not in file.done)
        with bar(f"score {config.output.stem}", count_rows(config.input), len(file.done)) as advance:
            pending: list[Row] = []
            for row, q_values in scorer.score_rows(rows, max_tokens=config.max_tokens):
                total = aggregate(q_values, contract.aggregation)
                pending.append(
                    {
                        **row,
                        "q_values": q_values,
                        "score": total if math.isfinite(total) else None,
                        "step_rewards": [1 / (1 + math.exp(-q)) if q > -700 else 0.0 for q in q_values],
                    }
                )
                if len(pending) == _ROWS_AT_ONCE:
                    file.append(pending)
                    advance(len(pending))
                    pending = []
            file.append(pending)
            advance(len(pending))
        file.finish({"objective": contract.objective, "aggregation": contract.aggregation})
    return config.output
