"""`qstep evaluate processbench`: a scorer and responses with a known first error in, how well it finds it out."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Collection
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

from qstep.runs.options import Bounds, settings_of
from qstep.runs.progress import accuracy_text, print_result, print_table, say_written
from qstep.runs.provenance import provenance
from qstep.runs.runner import Work, write_rows
from qstep.scoring.options import ScorerOptions, warn_of_prompts
from qstep.stages.harness import harness_results, harness_samples
from qstep.stages.score import scoring, too_long
from qstep.stages.step_benchmarks import StepBenchmark, read_benchmarks, shared_rows
from qstep.tasks.options import DatasetName, PromptOptions
from qstep.types import Aggregation, OverLong, Row

if TYPE_CHECKING:
    from qstep.evals import Judgements

_THRESHOLD = "threshold"
_LONG = "longer than max_length"
_EXAMPLES = 3
_VERDICTS = {"True": "right", "False": "wrong"}
_SWEPT = [i / 50 for i in range(1, 50)]
"""The thresholds of sigmoid(Q) at which the report shows F1."""


@dataclass(kw_only=True)
class EvaluateStepsConfig(PromptOptions, ScorerOptions):
    """Judges a step scorer by how well it finds the first wrong step, as ProcessBench does (arXiv 2412.06559).

    A step is said to be wrong where sigmoid(Q) is below the threshold. F1 is the harmonic mean of the accuracy on
    responses with an error (exactly its place is found) and on those without one (none is found), for each subset, and
    their mean. Beside it: AUROC of steps, calibration, what the score has to do with length, and aggregations.

    Args:
        inputs: files by name of the subset, `--inputs.gsm8k gsm8k.json --inputs.math math.json`, or one file:
            ProcessBench's (.json, .jsonl), or rows with `completions` and `labels` (.jsonl). A given step is scored as
            one step, whatever is in it.
        dataset_name: instead of files, a Hub id or a folder of such files, each split a subset: `Qwen/ProcessBench`.
        output_dir: where scored rows, results and the page go.
        threshold: of sigmoid(Q), in [0, 1]; .5 by default, which is Q = 0.
        threshold_file: choose the threshold with the best F1 on this file, which may share no row with what is judged.
        threshold_split: choose it on this subset of the inputs, which then is not judged.
        over_long: what to do with rows longer than the scorer's `max_length`: refuse, before any of their subset is
            scored, or drop and count them. Nothing is truncated.
        seed: of the bootstrap.
    """

    inputs: dict[str, Path] | Path | None = None
    dataset_name: DatasetName | None = None
    output_dir: Path
    threshold: Annotated[float | None, Bounds(least=0, most=1)] = None
    threshold_file: Path | None = None
    threshold_split: str | None = None
    over_long: OverLong = "refuse"
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.inputs is None) == (self.dataset_name is None):
            raise ValueError("give --inputs or --dataset_name, and not both")
        ways = ("threshold", "threshold_file", "threshold_split")
        given = [f"--{name}" for name in ways if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} are given: a threshold is given or chosen in one way")


def evaluate(config: EvaluateStepsConfig) -> dict[str, Any]:
    """Runs the stage and returns what it writes to `results.json`; `steps` holds each subset's report.

    Also writes `scored_<subset>.jsonl` (resumable), `results_<time>.json` and `samples_<subset>_<time>.jsonl` in
    lm-evaluation-harness' layout, and `report.html`.

    Raises:
        ValueError: rows are longer than the scorer's `max_length` (unless they are to be dropped), or the threshold was
            to be chosen on rows that are judged, or on a subset that is not there.
    """
    from qstep.data import write_json, write_jsonl
    from qstep.evals import mean_f1
    from qstep.report import render_report

    judged, chosen_on = _benchmarks(config)
    shared = _refuse_shared(judged, chosen_on)
    scored = {name: _scored(of, config) for name, of in judged.items()}
    q, threshold = _threshold(config, chosen_on, shared)
    judgements = {name: _judgements(rows) for name, (rows, _) in scored.items()}
    steps = {name: _report(judgements[name], rows, summary, q, config.seed) for name, (rows, summary) in scored.items()}
    now = datetime.now()
    originals = {name: len(of.rows) + of.left_out.total() for name, of in judged.items()}
    harness = {
        **harness_results(steps, originals, config.scorer, config.seed, now),
        "provenance": provenance(asdict(config)),
    }
    results = {
        "name": config.output_dir.name,
        "scorer": config.scorer_fingerprint(),
        "threshold": threshold,
        "steps": steps,
        "mean": {"f1": mean_f1(judgements, q, seed=config.seed), "subsets": list(steps)},
        **harness,
    }
    write_json(config.output_dir / "results.json", results)
    stamp = now.isoformat().replace(":", "-")
    write_json(config.output_dir / f"results_{stamp}.json", harness)
    for name, (rows, _) in scored.items():
        write_jsonl(config.output_dir / f"samples_{name}_{stamp}.jsonl", harness_samples(rows, q))
    page = {"title": f"{results['name']}: first wrong steps", "steps": steps, "provenance": results["provenance"]}
    rows_of_all = [row for rows, _ in scored.values() for row in rows]
    render_report(page, _examples(rows_of_all, q), config.output_dir / "report.html")
    _print(results, judged)
    for name in ("results.json", "report.html"):
        say_written(config.output_dir / name)
    return results


def _benchmarks(config: EvaluateStepsConfig) -> tuple[dict[str, StepBenchmark], StepBenchmark | None]:
    """The subsets to judge, and the one to choose a threshold on."""
    inputs = {config.inputs.stem: config.inputs} if isinstance(config.inputs, Path) else dict(config.inputs or {})
    chooses = {} if config.threshold_file is None else {_THRESHOLD: config.threshold_file}
    judged = read_benchmarks(
        inputs | chooses,
        config.dataset_name,
        instruction=config.instruction,
        conversational=config.conversational,
    )
    if _THRESHOLD in {*inputs, *judged} - {*chooses}:
        raise ValueError(f"a subset is called {_THRESHOLD!r}, as the rows to choose a threshold on are: rename it")
    for name in judged:
        if not re.fullmatch(r"[\w.-]+", name):
            raise ValueError(f"a subset is called {name!r}: a name has letters, digits, '_', '-' and '.'")
    chosen_on = judged.pop(_THRESHOLD, None)
    if config.threshold_split is not None:
        if config.threshold_split not in judged or len(judged) == 1:
            raise ValueError(
                f"--threshold_split is {config.threshold_split!r}: name one of several subsets, which are "
                f"{', '.join(judged)}; the others are judged"
            )
        chosen_on = judged.pop(config.threshold_split)
    return judged, chosen_on


def _refuse_shared(judged: dict[str, StepBenchmark], chosen_on: StepBenchmark | None) -> int:
    """How many problems are judged that the threshold is chosen on too; ValueError where whole responses are."""
    problems = 0
    for of in judged.values() if chosen_on is not None else ():
        assert chosen_on is not None
        rows, shared = shared_rows(of, chosen_on)
        if rows:
            raise ValueError(
                f"{chosen_on.source} and {of.source} share {len(rows)} rows, {rows[0]!r} the first: a threshold is "
                "never chosen on what is judged. Choose it on other rows, or give --threshold"
            )
        problems += shared
    return problems


def _scored(of: StepBenchmark, config: EvaluateStepsConfig) -> tuple[list[Row], dict[str, Any]]:
    """The rows of a subset with `q_values` and `score`, and what is known of their scoring."""
    from qstep.data import canonical_json, read_rows

    digest = hashlib.sha256(b"".join(canonical_json(row) + b"\n" for row in of.rows)).hexdigest()
    own = {field.name for field in fields(config)} - {field.name for field in fields(ScorerOptions)}
    settings = settings_of(config, *own, scorer=config.scorer_fingerprint(), rows=digest)
    path = config.output_dir / f"scored_{of.name}.jsonl"

    def work(done: Collection[str]) -> Work:
        scorer = config.load_scorer()
        dropped = too_long(of.rows, scorer, config.over_long, of.source)
        warn_of_prompts((row["prompt"] for row in of.rows), scorer, of.source, config.instruction)
        if len(dropped) == len(of.rows):
            raise ValueError(f"{of.source} has no rows short enough for this scorer")
        skipped = {*done, *dropped}
        rows = [row for row in of.rows if row["id"] not in skipped]
        responses = len(of.rows) - len(dropped)
        separators = of.separators(scorer)
        return scoring(rows, responses, scorer, config.score_tokens, len(dropped), separators=separators)

    summary = write_rows(path, "evaluate processbench", settings, work)
    long = summary.pop("over_long")
    if long and config.over_long == "refuse":
        raise ValueError(f"{path} was made without {long} over-long rows: give --over_long drop again")
    left_out = dict(of.left_out) | ({_LONG: long} if long else {})
    return list(read_rows(path)), summary | {"left_out": left_out}


def _threshold(
    config: EvaluateStepsConfig, chosen_on: StepBenchmark | None, shared: int
) -> tuple[float, dict[str, Any]]:
    """The threshold of Q, and what the results say of it: that of sigmoid(Q), and where it comes from."""
    from scipy.special import expit, logit

    from qstep.evals import choose_threshold, first_error_report

    if chosen_on is None:
        value = 0.5 if config.threshold is None else config.threshold
        return float(logit(value)), {"value": value, "chosen_on": None}
    rows, _ = _scored(chosen_on, config)
    judgements = _judgements(rows)
    q = choose_threshold([judgements])
    return q, {
        "value": float(expit(q)),
        "q_value": q,
        "chosen_on": {
            "source": chosen_on.source,
            "rows": len(rows),
            "f1": first_error_report(judgements, q, seed=config.seed)["f1"],
            "problems_that_are_judged_too": shared,
        },
    }


def _judgements(rows: list[Row]) -> Judgements:
    from qstep.data import group_key
    from qstep.evals import Judgements

    return Judgements.of(
        [row["q_values"] for row in rows], [row["first_error"] for row in rows], [group_key(row) for row in rows]
    )


def _report(
    judged: Judgements, rows: list[Row], summary: dict[str, Any], threshold: float, seed: int
) -> dict[str, Any]:
    """Everything about one subset. A step counts up to the first wrong one: what follows is neither right nor wrong."""
    import numpy as np
    from scipy.special import logit

    from qstep.data import group_key
    from qstep.evals import (
        LabelledSteps,
        auc_estimate,
        calibration,
        first_error_report,
        length_report,
        step_auroc,
        threshold_sweep,
    )
    from qstep.search import aggregate

    of_steps = LabelledSteps()
    for row in rows:
        labels = [step != row["first_error"] for step in range(len(row["q_values"]))]
        of_steps.add(group_key(row), row["q_values"], labels)
    problems = [group_key(row) for row in rows]
    correct = [row["first_error"] == -1 for row in rows]
    sweep = threshold_sweep(judged, logit(_SWEPT))
    return {
        "responses": len(rows),
        "problems": len(set(problems)),
        "steps": sum(len(row["q_values"]) for row in rows),
        **summary,
        **first_error_report(judged, threshold, seed=seed),
        "auroc": step_auroc(of_steps, seed=seed),
        "calibration": calibration(of_steps.q_values, of_steps.right, of_steps.problems, seed=seed),
        "aggregations": {
            how: auc_estimate([aggregate(row["q_values"], how) for row in rows], correct, problems, seed=seed)
            for how in get_args(Aggregation)
        },
        "length": length_report(
            [row["score"] for row in rows],
            {
                "steps": [len(row["completions"]) for row in rows],
                "characters": [sum(map(len, row["completions"])) for row in rows],
            },
            correct,
            problems,
            seed=seed,
        ),
        "by_threshold": {
            "threshold": _SWEPT,
            **{name: [None if math.isnan(x) else float(x) for x in np.asarray(of)] for name, of in sweep.items()},
        },
    }


def _examples(rows: list[Row], threshold: float) -> list[Row]:
    """Some responses for the page: errors that are missed, and errors that are found."""
    from qstep.evals import predicted_first_error

    missed, found = list[Row](), list[Row]()
    for row in rows:
        if row["first_error"] != -1:
            hit = predicted_first_error(row["q_values"], threshold) == row["first_error"]
            (found if hit else missed).append(row)
    return [
        {
            "problem_id": row["id"],
            "prompt": row["prompt"],
            "responses": [
                {
                    "steps": row["completions"],
                    "q_values": row["q_values"],
                    "score": row["score"],
                    "verdict": _VERDICTS.get(str(row.get("final_answer_correct"))),
                    "labels": [
                        1 if step < row["first_error"] else 0 if step == row["first_error"] else None
                        for step in range(len(row["completions"]))
                    ],
                }
            ],
        }
        for row in (*missed[:_EXAMPLES], *found[:_EXAMPLES])
    ]


def _print(results: dict[str, Any], judged: dict[str, StepBenchmark]) -> None:
    threshold = results["threshold"]
    chosen = threshold["chosen_on"]
    where = f", chosen on {chosen['source']}" if chosen else ""
    print_table(
        f"first wrong step, sigmoid(Q) below {threshold['value']:.3g}{where}, 95 % intervals",
        ["", "F1", "with an error", "without one", "ECE", "responses"],
        [
            [
                name,
                *(_cell(of[metric]) for metric in ("f1", "acc_error", "acc_correct")),
                _cell(of["calibration"]["ece"]),
                str(of["responses"]),
            ]
            for name, of in results["steps"].items()
        ],
    )
    _print_auroc(results["steps"])
    if len(results["steps"]) > 1:
        print_result(f"mean F1 of the subsets: {_cell(results['mean']['f1'])}")
    if chosen and chosen["problems_that_are_judged_too"]:
        print_result(
            f"{chosen['problems_that_are_judged_too']} problems are judged that the threshold was chosen on too, by "
            "other responses"
        )
    for name, of in results["steps"].items():
        if of["left_out"]:
            print_result(f"{judged[name].source}: left out {of['left_out']}")
        steps, rows = of["separators"]["steps_with_a_separator"], of["separators"]["rows_with_a_separator_in_a_step"]
        if steps:
            print_result(
                f"{judged[name].source}: {steps} steps in {rows} rows contain the text at which this scorer was taught "
                "that responses are split; each is scored as the one step it is given as"
            )
        if other := of["separators"]["rows_split_at_another"]:
            print_result(f"{judged[name].source}: {other} rows were split at another separator than this scorer's")


def _print_auroc(subsets: dict[str, Any]) -> None:
    """The AUROC of steps with what position alone has, in all and, where problems have several responses, in each."""
    kinds = ("step", "position", "step_at_equal_position")
    for where, title in (("", "over all problems"), ("_within_problem", "within a problem")):
        measured = {name: [of["auroc"][kind + where] for kind in kinds] for name, of in subsets.items()}
        if any(estimate for of_subset in measured.values() for estimate in of_subset):
            print_table(
                f"AUROC of steps, {title}, 95 % intervals",
                ["", "of the scorer", "of position alone", "of the scorer, at equal positions"],
                [[name, *map(_cell, of_subset)] for name, of_subset in measured.items()],
            )


def _cell(estimate: dict[str, Any] | None) -> str:
    return accuracy_text(estimate or {"mean": None})
