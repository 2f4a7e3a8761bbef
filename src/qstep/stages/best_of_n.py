"""`qstep best-of-n`: graded responses in, the accuracy of choosing among n of them out."""

from __future__ import annotations

import hashlib
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

from qstep.runs.options import Bounds, OutputFile
from qstep.runs.outputs import is_json_with, refuse_foreign, refuse_overwriting
from qstep.runs.progress import accuracy_text, print_result, print_table, say_written
from qstep.runs.provenance import provenance
from qstep.stages.score_diagnostics import Responses, q_values_of, response_auc, score_facts, score_lengths
from qstep.tasks.options import TaskOptions
from qstep.types import Aggregation, Row

if TYPE_CHECKING:
    from qstep.evals import LabelledSteps, ScoredGroup


@dataclass
class BestOfNConfig(TaskOptions):
    """Compares best-of-n by scorers, majority and weighted votes, and pass@n, exactly or seeded.

    An answer that cannot be graded is not counted as wrong: accuracies are over what can be graded, with the share
    that cannot and both bounds beside them. Of each scorer also: how well it tells right responses (AUC) and, where
    labels are exact, right steps from wrong ones; how far its accuracy falls as n grows (over-optimisation); and what
    its score has to do with the length of a response and the number of its steps.

    Args:
        inputs: a file of graded responses (majority and pass@n need no scorer), or graded and scored files of the
            same rows by name of the scorer: `--inputs.pqm pqm.jsonl --inputs.bce bce.jsonl`. Name the proposed scorer
            first.
        output: the JSON file to write.
        ns: the numbers of responses to choose among, as `1,4,12` or a list. Problems with fewer responses than the
            largest are left out, and counted. By default 1, 2, 4, ... up to what every problem has.
        aggregations: ways to make one score of a response's Qs to compare with each other, such as
            `min,last,mean,product`; their rows need `q_values`.
        draws: subsets drawn where a vote over all of them would be too many.
        seed: of the drawing and of the bootstrap.
    """

    inputs: dict[str, Path] | Path
    output: OutputFile
    ns: list[int] | str | None = None
    aggregations: list[str] | str | None = None
    draws: Annotated[int, Bounds(least=1)] = 2048
    seed: int = 0


def best_of_n(config: BestOfNConfig) -> Path:
    """Computes the report, writes it, prints a table, and returns the output."""
    from qstep.data import write_json
    from qstep.evals import aggregation_report, best_of_n_report

    refuse_overwriting(config)
    refuse_foreign("output", config.output, is_json_with("curves", "provenance"))
    hows = _aggregations(config.aggregations)
    groups, auc, responses = read_groups_of(config.inputs, config.task)
    sizes = [len(group.correct) for group in groups]
    ns = sorted({*_numbers(config.ns)}) if config.ns else _up_to(min(sizes))
    large = [len(group.correct) >= max(ns) for group in groups]
    kept = [group for group, is_large in zip(groups, large, strict=True) if is_large]
    if not kept:
        raise ValueError(f"no problem has {max(ns)} responses; the most any has is {max(sizes)}: choose smaller --ns")
    verdicts = [correct for group in kept for correct in group.correct]
    report = {
        "problems": len(kept),
        "responses": len(verdicts),
        "ungradable_share": verdicts.count(None) / len(verdicts),
        "left_out": {"problems": len(groups) - len(kept), "with_fewer_responses_than": max(ns)},
        "ns": ns,
        **best_of_n_report(kept, ns, draws=config.draws, seed=config.seed),
        "auc": {name: of | auc.get(name, {}) for name, of in response_auc(responses, config.seed).items()},
        "length": score_lengths(responses, config.seed),
        "provenance": provenance(asdict(config)),
    }
    if hows:
        q_values = q_values_of(responses, large)
        found = aggregation_report(kept, q_values, ns, hows, draws=config.draws, seed=config.seed)
        report["aggregations"] = found["aggregations"]
        report["outcomes"] |= found["outcomes"]
    write_json(config.output, report)
    print_table(
        "accuracy of choosing among n responses, 95 % intervals",
        ["", *(f"n = {n}" for n in ns)],
        [[method, *(accuracy_text(curve[str(n)]) for n in ns)] for method, curve in report["curves"].items()],
    )
    for name, of in report.get("aggregations", {}).items():
        print_table(
            f"{name}: one score from many steps, 95 % intervals",
            ["", *(f"n = {n}" for n in ns)],
            [[how, *(accuracy_text(curve[str(n)]) for n in ns)] for how, curve in of["curves"].items()],
        )
    for name, of in report["over_optimisation"].items():
        if of["drop"] is not None and of["drop"]["low"] > 0:
            print_result(f"{name} is best at n = {of['peak_n']} and then loses {_points(of['drop'])} points")
    print_result("{problems} problems, {responses} responses, {ungradable_share:.1%} ungradable".format(**report))
    if len(kept) < len(groups):
        print_result(f"{len(groups) - len(kept)} problems with fewer than {max(ns)} responses are left out")
    elif not config.ns and max(sizes) > max(ns):
        print_result(
            f"n goes up to {max(ns)}, as a problem has no more; --ns goes further and leaves such problems out"
        )
    say_written(config.output)
    return config.output


def _aggregations(given: list[str] | str | None) -> list[Aggregation]:
    """Raises ValueError for one that is unknown, or given twice."""
    hows = [how.strip() for how in given.split(",")] if isinstance(given, str) else list(given or [])
    known = get_args(Aggregation)
    if len({*hows} & {*known}) < len(hows):
        raise ValueError(f"--aggregations is {given!r}: give each of {', '.join(known)} at most once, with commas")
    return [how for how in known if how in hows]


def _points(difference: dict[str, Any]) -> str:
    return (
        "unknown"
        if difference["mean"] is None
        else "{:.1f} [{:.1f}, {:.1f}]".format(*(100 * difference[name] for name in ("mean", "low", "high")))
    )


def _numbers(ns: list[int] | str) -> list[int]:
    try:
        numbers = [int(n) for n in (ns.split(",") if isinstance(ns, str) else ns)]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < 1:
        raise ValueError(f"--ns is {ns!r}: give whole numbers from 1, such as 1,4,12")
    return numbers


def _up_to(most: int) -> list[int]:
    """1, 2, 4, ... and `most` itself."""
    return sorted({*(2**i for i in range(most.bit_length())), most})


def read_groups_of(
    inputs: dict[str, Path] | Path, task: str = "math"
) -> tuple[list[ScoredGroup], dict[str, Any], dict[str, Responses]]:
    """The problems of graded files, with the scores of each that names a scorer, and each scorer's `step_auc` and rows.

    A single file without a name is scored by `scorer`, if its rows are scored. A problem is a `problem_id` with its
    prompt; `task` is that of rows that name none.

    Raises:
        ValueError: the files do not hold the same responses with the same verdicts, or a row is bad, not graded or
            not scored.
    """
    from qstep.data import canonical_json, group_key, judged_right, read_responses
    from qstep.evals import LabelledSteps, ScoredGroup
    from qstep.tasks import Tasks, answer_classes_of

    if isinstance(inputs, Path):
        first_row = next(read_responses(inputs, task=task), {})
        inputs = {"scorer" if "score" in first_row else "": inputs}
    groups: dict[tuple[str, str], list[Row]] = {}
    scores: dict[str, dict[str, float]] = {}
    steps: dict[str, LabelledSteps] = {}
    golds: dict[tuple[str, str], Any] = {}
    responses: dict[str, dict[str, Row]] = {}
    contents: dict[str, bytes] = {}  # of the first scorer's rows: ids alone may be those of another model's responses
    for name, path in inputs.items():
        of_scorer, of_steps = scores.setdefault(name, {}), steps.setdefault(name, LabelledSteps())
        for row in read_responses(path, task=task):
            _require(row, path, scored=bool(name))
            score = row["score"] if name else 0.0
            of_scorer[row["id"]] = -math.inf if score is None else score
            content = [row["prompt"], row["completion"], row["verdict"]]
            digest = hashlib.sha256(canonical_json(content)).digest()
            if contents.setdefault(row["id"], digest) != digest:
                raise ValueError(
                    f"{path}: row {row['id']!r} is not the one of {inputs[next(iter(scores))]}: its prompt, completion "
                    "or verdict differs. Score the same graded file with each scorer"
                )
            if row.get("label_source") == "exact" and "q_values" in row:
                of_steps.add(group_key(row), row["q_values"], row["labels"])
            if name:
                responses.setdefault(name, {})[row["id"]] = score_facts(row)
            if len(scores) == 1:
                problem = group_key(row)
                if golds.setdefault(problem, row.get("gold")) != row.get("gold"):
                    raise ValueError(
                        f"{path}: row {row['id']!r} has another gold answer than earlier rows of its problem and "
                        "prompt: give them problem_ids of their own"
                    )
                slim = {field: row.get(field) for field in ("id", "task", "verdict", "answer")}
                groups.setdefault(problem, []).append(slim)
    if not groups:
        raise ValueError(f"{', '.join(map(str, inputs.values()))}: there is no row")
    first = next(iter(scores))
    for name, of_scorer in scores.items():
        if of_scorer.keys() != scores[first].keys():
            raise ValueError(f"{inputs[name]} and {inputs[first]} hold different rows: score the same file with both")
    scored = [
        ScoredGroup(
            problem_id,
            [judged_right(row) for row in rows],
            answer_classes_of(rows, Tasks(task)),
            {name: [of_scorer[row["id"]] for row in rows] for name, of_scorer in scores.items() if name},
        )
        for (problem_id, _), rows in groups.items()
    ]
    in_groups = {
        name: [[by_id[row["id"]] for row in rows] for rows in groups.values()] for name, by_id in responses.items()
    }
    return scored, step_auc(steps), in_groups


def _require(row: Row, path: Path, *, scored: bool) -> None:
    """Raises ValueError, naming the row, where it is not one of a graded file, or not of a scored one."""
    if "verdict" not in row:
        raise ValueError(f"{path}: row {row['id']!r} has no verdict: run `qstep grade` on it first")
    if scored and "score" not in row:
        raise ValueError(
            f"{path}: row {row['id']!r} has no score: run `qstep score` on it first, or give the file without a name "
            f"(--inputs {path}) for what needs no scorer"
        )


def step_auc(steps: dict[str, LabelledSteps]) -> dict[str, Any]:
    """How well each scorer tells right steps from first wrong ones within a problem, where labels are exact."""
    from qstep.evals import step_auroc_within_problem

    found = {name: step_auroc_within_problem(of_scorer) for name, of_scorer in steps.items() if name}
    known = {name: {key: value for key, value in of.items() if value is not None} for name, of in found.items()}
    return {name: of for name, of in known.items() if of}
