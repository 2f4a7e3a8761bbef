"""`qstep best-of-n`: scored responses in, the accuracy of choosing among n of them out."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qstep.stages.progress import console
from qstep.types import Row


@dataclass
class BestOfNConfig:
    """Compares best-of-n by one or more scorers, majority and weighted votes, and pass@n, exactly or seeded.

    Args:
        inputs: scored and graded rows by name of the scorer, e.g. `{"pqm": "pqm.jsonl", "bce": "bce.jsonl"}`;
            name the proposed scorer first.
        output: the JSON file to write.
        ns: the numbers of responses to choose among; 1, 2, 4, ... up to what every problem has by default.
        draws: subsets drawn where a vote over all of them would be too many.
        seed: of the drawing and of the bootstrap.
    """

    inputs: dict[str, Path]
    output: Path
    ns: list[int] | None = None
    draws: int = 2048
    seed: int = 0


def best_of_n(config: BestOfNConfig) -> Path:
    """Computes the report, writes it, prints a table, and returns the output."""
    from qstep.data import write_json
    from qstep.evals import best_of_n_report

    groups, auc = read_scored(config.inputs)
    smallest = min(len(group.correct) for group in groups)
    ns = config.ns or [2**i for i in range(smallest.bit_length()) if 2**i <= smallest]
    report = best_of_n_report(groups, ns, draws=config.draws, seed=config.seed)
    report["auc"] = auc
    write_json(config.output, report)
    print_table(report, ns)
    return config.output


def read_scored(inputs: dict[str, Path]) -> tuple[list[Any], dict[str, Any]]:
    """The problems of some scored files, with each scorer's scores, and each scorer's `step_auc`.

    Raises:
        ValueError: the files do not hold the same rows, or a row is not graded or not scored.
    """
    from qstep.data import answer_classes_of, read_rows
    from qstep.evals import ScoredGroup

    groups: dict[str, list[Row]] = {}
    scores: dict[str, dict[str, float]] = {}
    steps: dict[str, dict[str, list[tuple[float, bool]]]] = {}
    for name, path in inputs.items():
        scores[name], steps[name] = {}, {}
        for row in read_rows(path):
            for field in ("verdict", "score", "problem_id"):
                if field not in row:
                    raise ValueError(f"{path}: row {row.get('id')!r} has no {field!r}: grade and score the rows first")
            scores[name][row["id"]] = -math.inf if row["score"] is None else row["score"]
            if row.get("label_source") == "exact":
                steps[name].setdefault(row["problem_id"], []).extend(_through_first_error(row))
            if len(scores) == 1:
                slim = ("id", "problem_id", "task", "verdict", "answer")
                groups.setdefault(row["problem_id"], []).append({field: row[field] for field in slim})
    first = next(iter(scores))
    for name, of_name in scores.items():
        if of_name.keys() != scores[first].keys():
            raise ValueError(f"{inputs[name]} and {inputs[first]} hold different rows: score the same file with both")
    scored = [
        ScoredGroup(
            problem_id,
            [int(row["verdict"] == "right") for row in rows],
            answer_classes_of(rows),
            {name: [of_name[row["id"]] for row in rows] for name, of_name in scores.items()},
        )
        for problem_id, rows in groups.items()
    ]
    return scored, step_auc(steps)


def _through_first_error(row: Row) -> Iterator[tuple[float, bool]]:
    """Each step's Q and label; what follows the first wrong step is wrong whatever it says, and left out."""
    for q_value, label in zip(row["q_values"], row["labels"], strict=True):
        yield q_value, bool(label)
        if not label:
            return


def step_auc(steps: dict[str, dict[str, list[tuple[float, bool]]]]) -> dict[str, Any]:
    """How well each scorer tells right steps from first wrong ones within a problem, where labels are exact."""
    from dataclasses import asdict

    from qstep.evals import within_problem_auc

    report: dict[str, Any] = {}
    for name, problems in steps.items():
        q_values = [[q_value for q_value, _ in pairs] for pairs in problems.values()]
        labels = [[int(label) for _, label in pairs] for pairs in problems.values()]
        estimate = within_problem_auc(q_values, labels) if problems else None
        if estimate is not None:
            report[name] = {"step_within_problem": asdict(estimate)}
    return report


def print_table(report: dict[str, Any], ns: list[int]) -> None:
    """Accuracy by method and n."""
    from rich.table import Table

    table = Table(title="accuracy of choosing among n responses")
    table.add_column("method")
    for n in ns:
        table.add_column(f"n = {n}", justify="right")
    for method, curve in report.items():
        if method not in ("differences", "mean", "auc"):
            table.add_row(method, *(f"{curve[str(n)]['mean']:.3f}" for n in ns))
    console.print(table)
