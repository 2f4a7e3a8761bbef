"""`qstep evaluate processbench`: measures how well a scorer finds the first wrong step of responses."""

from __future__ import annotations

import hashlib
import re
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from qstep.runs.options import Bounds, OutputFolder, Seed, settings_of
from qstep.runs.outputs import is_page, refuse_foreign
from qstep.runs.progress import print_result, print_table, say_written
from qstep.runs.provenance import provenance
from qstep.scoring.options import ScorerOptions
from qstep.stages.score import write_scored
from qstep.tasks.options import DatasetName, PromptOptions
from qstep.types import OverLongScored, Row

if TYPE_CHECKING:
    from qstep.evals import StepBenchmark, StepJudgement
    from qstep.evals.results import Threshold

_THRESHOLD = "threshold"
_LONG = "longer than max_length"


@dataclass(kw_only=True)
class EvaluateStepsConfig(PromptOptions, ScorerOptions):
    """Evaluates how well a step scorer finds the first wrong step, as ProcessBench does (arXiv 2412.06559).

    The scorer calls a step wrong if sigmoid(Q) is below the threshold. F1 is the harmonic mean of two accuracies. On
    responses with an error, exactly the first wrong step must be found. On responses without an error, no step may be
    called wrong. Results are reported for each subset, with the mean F1. They include the AUROC of steps, calibration,
    the correlation of the score with length, and aggregations.

    Args:
        inputs: files of ProcessBench (.json, .jsonl) or rows with `completions` and `labels` (.jsonl), each under the
            name of its subset: `--inputs.gsm8k gsm8k.json --inputs.math math.json`. One file needs no name. Each step
            in a file is scored as one step, even if it contains the step separator.
        dataset_name: a Hub id or a folder of such files, instead of `inputs`: `Qwen/ProcessBench`. Each split is a
            subset.
        output_dir: the folder for scored rows, results and the page.
        threshold: threshold of sigmoid(Q), in [0, 1]; .5 by default, which is Q = 0.
        threshold_file: a file on which to choose the threshold with the best F1. It must not share rows with the
            evaluated ones.
        threshold_split: a subset on which to choose the threshold. It is then not evaluated.
        over_long: `refuse` stops at rows longer than the scorer's `max_length` before their subset is scored; `drop`
            leaves them out and counts them; `window` reads them in windows over their steps and counts them, as
            `qstep score` does. Nothing is truncated.
        seed: seed of the bootstrap. Means over problems have an interval in closed form, which needs no seed.
    """

    inputs: dict[str, Path] | Path | None = None
    dataset_name: DatasetName | None = None
    output_dir: OutputFolder
    threshold: Annotated[float | None, Bounds(least=0, most=1)] = None
    threshold_file: Path | None = None
    threshold_split: str | None = None
    over_long: OverLongScored = "refuse"
    seed: Seed = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.inputs is None) == (self.dataset_name is None):
            raise ValueError("give either --inputs or --dataset_name")
        ways = ("threshold", "threshold_file", "threshold_split")
        used = [f"--{name}" for name in ways if getattr(self, name) is not None]
        if len(used) > 1:
            raise ValueError(f"{' and '.join(used)} exclude each other: give one of them")


def evaluate(config: EvaluateStepsConfig) -> StepJudgement:
    """Runs the stage and returns what it writes to `results.json`. `steps` holds the report of each subset.

    It also writes `scored_<subset>.jsonl` (resumable) and `report.html`. `results_<time>.json` and
    `samples_<subset>_<time>.jsonl` have the layout of lm-evaluation-harness.

    Raises:
        ValueError: rows are longer than the scorer's `max_length` and `over_long` is `refuse`, or the threshold would
            be chosen on evaluated rows or on a missing subset.
    """
    from qstep.data import write_json, write_jsonl
    from qstep.evals import Page, StepJudgement, holds, judgements_of, mean_f1, step_report, write_result
    from qstep.evals.harness import harness_results, harness_samples
    from qstep.evals.results import MeanF1
    from qstep.report import choose_judged, render_report

    refuse_foreign("output_dir", config.output_dir / "results.json", holds(StepJudgement))
    refuse_foreign("output_dir", config.output_dir / "report.html", is_page)
    judged, chosen_on = _benchmarks(config)
    shared = _refuse_shared(judged, chosen_on)
    scored = {name: _scored(benchmark, config) for name, benchmark in judged.items()}
    q, threshold = _threshold(config, chosen_on, shared)
    judgements = {name: judgements_of(rows) for name, (rows, _) in scored.items()}
    steps = {name: step_report(rows, summary, q, seed=config.seed) for name, (rows, summary) in scored.items()}
    now = datetime.now()
    originals = {name: len(benchmark.rows) + benchmark.left_out.total() for name, benchmark in judged.items()}
    results = StepJudgement(
        name=config.output_dir.name,
        scorer=config.scorer_fingerprint(),
        threshold=threshold,
        steps=steps,
        mean=MeanF1(f1=mean_f1(judgements, q, seed=config.seed), subsets=list(steps)),
        harness=harness_results(steps, originals, config.scorer, config.seed, now),
        provenance=provenance(asdict(config)),
    )
    write_result(config.output_dir / "results.json", results)
    stamp = now.isoformat().replace(":", "-")
    layout = {**results.harness, "provenance": results.provenance}
    write_json(config.output_dir / f"results_{stamp}.json", layout)
    for name, (rows, _) in scored.items():
        write_jsonl(config.output_dir / f"samples_{name}_{stamp}.jsonl", harness_samples(rows, q))
    page = Page(
        title=f"{results.name}: first wrong steps",
        steps=steps,
        thresholds=dict.fromkeys(steps, threshold),
        provenance=results.provenance,
    )
    rows_of_all = [row for rows, _ in scored.values() for row in rows]
    render_report(page, [choose_judged(rows_of_all, q)], config.output_dir / "report.html")
    _print(results, judged)
    for name in ("results.json", "report.html"):
        say_written(config.output_dir / name)
    return results


def _benchmarks(config: EvaluateStepsConfig) -> tuple[dict[str, StepBenchmark], StepBenchmark | None]:
    """The subsets to evaluate, and the one to choose a threshold on."""
    from qstep.data.inputs import is_several
    from qstep.evals import read_benchmarks

    if isinstance(config.inputs, Path) and is_several(config.inputs):
        raise ValueError(f"--inputs {config.inputs} is several files: give the subset a name, as --inputs.NAME")
    inputs = {config.inputs.stem: config.inputs} if isinstance(config.inputs, Path) else dict(config.inputs or {})
    if _THRESHOLD in inputs:
        raise ValueError(f"--inputs.{_THRESHOLD} is reserved for --threshold_file: give the subset another name")
    chooses = {} if config.threshold_file is None else {_THRESHOLD: config.threshold_file}
    judged = read_benchmarks(
        inputs | chooses,
        config.dataset_name,
        instruction=config.instruction,
        conversational=config.conversational,
    )
    if _THRESHOLD in judged.keys() - chooses.keys():
        raise ValueError(f"a subset is called {_THRESHOLD!r}, which is reserved for --threshold_file: rename it")
    for name in judged:
        if not re.fullmatch(r"[\w.-]+", name):
            raise ValueError(f"a subset is called {name!r}: rename it with letters, digits, '_', '-' and '.' only")
    chosen_on = judged.pop(_THRESHOLD, None)
    if config.threshold_split is not None:
        if config.threshold_split not in judged or len(judged) == 1:
            raise ValueError(
                f"--threshold_split is {config.threshold_split!r}, and the subsets are {', '.join(judged)}: name one "
                "of at least two, so that another is left to evaluate"
            )
        chosen_on = judged.pop(config.threshold_split)
    return judged, chosen_on


def _refuse_shared(judged: dict[str, StepBenchmark], chosen_on: StepBenchmark | None) -> int:
    """The number of problems in both the evaluated subsets and the one for the threshold.

    Raises ValueError if they share responses.
    """
    from qstep.evals import shared_rows

    problems = 0
    for benchmark in judged.values() if chosen_on is not None else ():
        assert chosen_on is not None
        rows, shared = shared_rows(benchmark, chosen_on)
        if rows:
            raise ValueError(
                f"{chosen_on.source} and {benchmark.source} share {len(rows)} rows (the first is {rows[0]!r}), and a "
                "threshold must not be chosen on evaluated rows. Choose it on other rows, or give --threshold"
            )
        problems += shared
    return problems


def _scored(benchmark: StepBenchmark, config: EvaluateStepsConfig) -> tuple[list[Row], dict[str, Any]]:
    """The rows of a subset with `q_values` and `score`, and the summary of their scoring."""
    from qstep.data import canonical_json, read_rows

    digest = hashlib.sha256(b"".join(canonical_json(row) + b"\n" for row in benchmark.rows)).hexdigest()
    windows = {"over_long": config.over_long} if config.over_long == "window" else {}
    settings = settings_of(config, ScorerOptions, scorer=config.scorer_fingerprint(), rows=digest, **windows)
    path = config.output_dir / f"scored_{benchmark.name}.jsonl"

    summary = write_scored(
        path,
        "evaluate processbench",
        settings,
        config,
        benchmark.source,
        lambda _: benchmark.rows,
        instruction=config.instruction,
        more=lambda scorer: {"separators": benchmark.separators(scorer)},
    )
    long = summary.pop("over_long")
    left_out = dict(benchmark.left_out) | ({_LONG: long} if long else {})
    return list(read_rows(path)), summary | {"left_out": left_out}


def _threshold(config: EvaluateStepsConfig, chosen_on: StepBenchmark | None, shared: int) -> tuple[float, Threshold]:
    """The threshold of Q, and its entry in the results: the threshold of sigmoid(Q) and its origin."""
    from scipy.special import expit, logit

    from qstep.evals import choose_threshold, first_error_report, judgements_of
    from qstep.evals.results import ChosenOn, Threshold

    if chosen_on is None:
        value = 0.5 if config.threshold is None else config.threshold
        return float(logit(value)), Threshold(value=value, chosen_on=None)
    rows, _ = _scored(chosen_on, config)
    judgements = judgements_of(rows)
    q = choose_threshold([judgements])
    on = ChosenOn(
        source=chosen_on.source,
        rows=len(rows),
        f1=first_error_report(judgements, q, seed=config.seed).f1,
        problems_that_are_judged_too=shared,
    )
    return q, Threshold(value=float(expit(q)), q_value=q, chosen_on=on)


def _print(results: StepJudgement, judged: dict[str, StepBenchmark]) -> None:
    from qstep.report.tables import judgement_notes, judgement_tables

    for table in judgement_tables(results):
        print_table(*table)
    for note in judgement_notes(results, {name: benchmark.source for name, benchmark in judged.items()}):
        print_result(note)
