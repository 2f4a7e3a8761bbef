"""`qstep score`: reads rows and a trained scorer, and adds a Q-value for each step."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from qstep.runs.options import NOT_IN_SETTINGS, OutputFile, settings_of
from qstep.runs.runner import Work, write_rows
from qstep.runs.stage_file import finished
from qstep.scoring.options import ScorerOptions, warn_of_prompts
from qstep.tasks.options import TaskOptions
from qstep.types import OverLong, Row

if TYPE_CHECKING:
    from qstep.scoring import Scorer

_NAMED = 5


@dataclass
class ScoreConfig(TaskOptions, ScorerOptions):
    """Scores every step of every response.

    Each row gets `q_values`, `score` and `step_rewards`. `score` aggregates the Qs as the scorer's step contract says.
    It is null for a response without steps, which loses to all others. `step_rewards` are the probabilities sigmoid(Q),
    for `qstep train dqo --process_rewards`. Rows without steps also get `completions` and `step_separator`.

    Args:
        input: rows written by `qstep sample`, `grade` or `annotate`, or your own responses, in the columns that `qstep
            grade` reads.
        output: the JSONL file to write.
        over_long: `refuse` stops at rows longer than the scorer's `max_length` before any is scored; `drop` leaves them
            out and counts them. Nothing is truncated.
    """

    input: Path
    output: OutputFile
    over_long: Annotated[OverLong, NOT_IN_SETTINGS] = "refuse"


def score(config: ScoreConfig) -> Path:
    """Runs the stage and returns its output.

    Raises:
        ValueError: a row's steps were split at another separator than the scorer's, or contain that separator. Also if
            rows are longer than `max_length` and `over_long` is `refuse`.
    """
    from qstep.data import count_responses

    settings = settings_of(
        config,
        input=finished(config.input),
        scorer=config.scorer_fingerprint(),
    )

    def work(done: Collection[str]) -> Work:
        scorer = config.load_scorer()
        dropped = too_long(_split_rows(config, scorer), scorer, config.over_long, str(config.input))
        warn_of_prompts((row["prompt"] for row in _split_rows(config, scorer)), scorer, str(config.input))
        if not (responses := count_responses(config.input) - len(dropped)):
            long = f": all are longer than this scorer's max_length of {scorer.max_length} tokens" if dropped else ""
            raise ValueError(f"{config.input} has no rows to score{long}")
        skipped = {*done, *dropped}
        rows = (row for row in _split_rows(config, scorer) if row["id"] not in skipped)
        return scoring(rows, responses, scorer, config.score_tokens, len(dropped))

    summary = write_rows(config.output, "score", settings, work)
    if config.over_long == "refuse" and (left_out := summary["over_long"]):
        raise ValueError(
            f"{config.output} was written with --over_long drop, without {left_out} rows longer than max_length: give "
            "this option again"
        )
    return config.output


def scoring(
    rows: Iterable[Row], responses: int, scorer: Scorer, max_tokens: int, over_long: int, **summary: Any
) -> Work:
    """The scored rows as work for `write_rows`. `responses` includes those that are already scored."""
    from qstep.scoring.aggregation import with_scores

    scored = scorer.score_rows(rows, max_tokens=max_tokens)
    about = {"objective": scorer.objective, "aggregation": scorer.aggregation, "over_long": over_long, **summary}
    return Work(responses, ([with_scores(row, scorer) for row in block] for block in scored), lambda _: about)


def _split_rows(config: ScoreConfig, scorer: Scorer) -> Iterator[Row]:
    """The rows with their steps in `completions`. A row without steps is split at the scorer's separator."""
    from qstep.data import read_responses, steps_of

    wanted = scorer.step_separator
    for row in read_responses(config.input, task=config.task):
        try:
            steps = steps_of(row, wanted)
        except ValueError as error:
            raise ValueError(
                f"{config.input}: {error}. Write the rows again with the scorer's separator (--step_separator of "
                "`qstep convert` or `annotate`), or use `qstep evaluate processbench`, which scores steps as they are"
            ) from None
        yield row if "completions" in row else {**row, "completions": steps, "step_separator": wanted}


def too_long(rows: Iterable[Row], scorer: Scorer, over_long: OverLong, where: str) -> set[str]:
    """The ids of the rows that are longer than the scorer's `max_length`.

    Raises:
        ValueError: there are such rows, and `over_long` is `refuse`.
    """
    long = [row["id"] for row in rows if not scorer.fits(row)]
    if long and over_long == "refuse":
        named = ", ".join(map(repr, long[:_NAMED])) + (", ..." if len(long) > _NAMED else "")
        raise ValueError(
            f"{where}: {len(long)} rows are longer than this scorer's max_length of {scorer.max_length} tokens "
            f"({named}). Leave them out with --over_long drop; nothing is truncated"
        )
    return set(long)
