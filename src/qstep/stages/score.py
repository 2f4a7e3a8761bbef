"""`qstep score`: reads rows and a trained scorer, and adds a Q-value for each step."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, Protocol

from qstep.runs.options import NotInSettings, OutputFile, settings_of
from qstep.runs.progress import say
from qstep.runs.runner import Work, write_rows
from qstep.runs.shared_options import RowsInput
from qstep.runs.stage_file import finished
from qstep.scoring.options import ScorerOptions, in_windows, warn_of_prompts
from qstep.tasks.options import ColumnOptions, TaskOptions
from qstep.types import OverLongScored, Row
from qstep.words import shortened

if TYPE_CHECKING:
    from qstep.scoring import Scorer

_NAMED = 5


@dataclass
class ScoreConfig(TaskOptions, ColumnOptions, ScorerOptions):
    """Scores every step of every response.

    Each row gets `q_values`, `score` and `step_rewards`. `score` aggregates the Qs as the scorer's step contract says.
    It is null for a response without steps, which loses to all others. `step_rewards` are the probabilities sigmoid(Q),
    for `qstep train dqo --process_rewards`. Rows without steps also get `completions` and `step_separator`.

    Args:
        input: rows written by `qstep sample`, `grade` or `annotate`, or your own responses, in the columns that `qstep
            grade` reads.
        output: the JSONL file to write.
        over_long: `refuse` stops at rows longer than the scorer's `max_length` before any is scored; `drop` leaves them
            out and counts them; `window` reads them in windows over their steps and counts them. Each window has the
            prompt and consecutive steps. Each step is scored once, if possible after at least half a window of earlier
            steps. Nothing is truncated.
    """

    input: RowsInput
    output: OutputFile
    over_long: Annotated[OverLongScored, NotInSettings(unless=in_windows)] = "refuse"


def score(config: ScoreConfig) -> Path:
    """Runs the stage and returns its output.

    Raises:
        ValueError: a row's steps were split at another separator than the scorer's, or contain that separator. Also if
            rows are longer than `max_length` and `over_long` is `refuse`.
    """
    settings = settings_of(config, input=finished(config.input), scorer=config.scorer_fingerprint())
    write_scored(
        config.output, "score", settings, config, str(config.input), lambda scorer: _split_rows(config, scorer)
    )
    return config.output


class _HowToScore(Protocol):
    """The options that `write_scored` reads."""

    score_tokens: int

    @property
    def over_long(self) -> OverLongScored: ...

    def load_scorer(self) -> Scorer: ...


def write_scored(
    output: Path,
    stage: str,
    settings: Mapping[str, Any],
    config: _HowToScore,
    source: str,
    rows: Callable[[Scorer], Iterable[Row]],
    *,
    instruction: str | None = None,
    more: Callable[[Scorer], Mapping[str, Any]] = lambda scorer: {},
) -> dict[str, Any]:
    """Writes scored rows as `write_rows` does, and returns the summary. `over_long` in it counts rows left out.

    Args:
        source: names the rows in messages.
        rows: returns the rows, with their steps in `completions`. It is called several times.
        instruction: a text that is part of the prompts, and was not in those of training.
        more: returns further entries of the summary.

    Raises:
        ValueError: there are no rows to score, or rows are longer than `max_length` and `over_long` is `refuse`.
    """
    from qstep.scoring.aggregation import with_scores

    def work(done: Collection[str]) -> Work:
        scorer = config.load_scorer()
        if config.over_long == "window":
            scorer.use_windows()
        found = _counted(rows(scorer), scorer, windows=config.over_long == "window")
        total, dropped = found.total, {*found.long}
        if dropped and config.over_long != "drop":
            raise _too_long(found.long, scorer, config.over_long, source)
        warn_of_prompts((row["prompt"] for row in rows(scorer)), scorer, source, instruction)
        if total == len(dropped):
            long = f": all are longer than this scorer's max_length of {scorer.max_length} tokens" if dropped else ""
            raise ValueError(f"{source} has no rows to score{long}")
        skipped = {*done, *dropped}
        todo = (row for row in rows(scorer) if row["id"] not in skipped)
        scored = scorer.score_rows(todo, max_tokens=config.score_tokens)
        if found.without_steps:
            say(
                f"{source}: {found.without_steps} of {total} responses have no steps at {scorer.step_separator!r}, so "
                "they have no score and lose to all others"
            )
        about = {"objective": scorer.objective, "aggregation": scorer.aggregation, "over_long": len(dropped)}
        if found.in_windows:
            say(
                f"{source}: {found.in_windows} of {total} responses are longer than this scorer's max_length of "
                f"{scorer.max_length} tokens and are read in windows over their steps"
            )
        more_counts = {"in_windows": found.in_windows, "without_steps": found.without_steps}
        about |= {name: count for name, count in more_counts.items() if count}
        blocks = ([with_scores(row, scorer) for row in block] for block in scored)
        return Work(total - len(dropped), blocks, lambda _: {**about, **more(scorer)})

    summary = write_rows(output, stage, settings, work)
    if config.over_long == "refuse" and (left_out := summary["over_long"]):
        raise ValueError(
            f"{output} was written with --over_long drop, without {left_out} rows longer than max_length: give this "
            "option again"
        )
    return summary


def _split_rows(config: ScoreConfig, scorer: Scorer) -> Iterator[Row]:
    """The rows with their steps in `completions`. A row without steps is split at the scorer's separator."""
    from qstep.data import read_responses, with_steps

    for row in read_responses(config.input, task=config.task, columns=config.columns):
        try:
            split = with_steps(row, scorer.step_separator)
        except ValueError as error:
            raise ValueError(
                f"{config.input}: {error}. Write the rows again with the scorer's separator (--step_separator of "
                "`qstep convert` or `annotate`), or use `qstep evaluate processbench`, which scores steps as they are"
            ) from None
        yield split


class _Counted(NamedTuple):
    """How many rows there are, the ids of those that do not fit, and how many have no steps or are read in windows."""

    total: int
    long: list[str]
    without_steps: int
    in_windows: int


def _counted(rows: Iterable[Row], scorer: Scorer, *, windows: bool) -> _Counted:
    total = without = read = 0
    long = []
    for row in rows:
        total += 1
        without += not row["completions"]
        if not scorer.fits(row):
            long.append(row["id"])
        elif windows:
            read += scorer.in_windows(row)
    return _Counted(total, long, without, read)


def _too_long(long: Sequence[str], scorer: Scorer, over_long: OverLongScored, source: str) -> ValueError:
    """The error for rows that are longer than the scorer's `max_length`, or have a step that is."""
    what = "are longer than" if over_long == "refuse" else "have a step that, after the prompt, does not fit into"
    ways = "drop, or read them in windows with --over_long window" if over_long == "refuse" else "drop"
    named = shortened([*map(repr, long[:_NAMED])], len(long))
    return ValueError(
        f"{source}: {len(long)} rows {what} this scorer's max_length of {scorer.max_length} tokens "
        f"({named}). Leave them out with --over_long {ways}; nothing is truncated"
    )
