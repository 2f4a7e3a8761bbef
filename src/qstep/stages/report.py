"""`qstep report`: results in, one self-contained HTML page out."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from qstep.runs.options import OutputFile
from qstep.runs.outputs import begins_with, is_json_with, refuse_foreign, refuse_overwriting
from qstep.runs.progress import say_written
from qstep.runs.provenance import provenance
from qstep.tasks.options import TaskOptions
from qstep.types import Row

_OF_SCORERS = ("aggregations", "over_optimisation", "length")
"""Parts of a best-of-n result that hold something of each scorer."""

_NOT_METRICS = ("id", "max_steps")


@dataclass
class ReportConfig(TaskOptions):
    """Renders a page that needs nothing else and runs no script.

    The first-named evaluation is compared with each other one, problem by problem, and the first-named scorer of a
    best-of-n result with the majority, one response, and each other scorer.

    Args:
        results: results of `qstep evaluate`, `qstep evaluate processbench`, `qstep best-of-n` and `qstep
            compare-search`, one, a list
            (`--results '[a.json, b.json]'`), or by name:
            `--results.dqo dqo/results.json --results.base base/results.json`; or the `summary` of another report.
        output: the HTML file to write.
        title: the page's title.
        training: folders written by `qstep train`, by name of the run.
        labels: two files of the same rows, `exact` and `monte_carlo`, whose step labels to compare.
        examples: a scored file to show problems of, by name of its scorer: `--examples.pqm scored.jsonl`.
        summary: a JSON file to write the numbers of the page to.
    """

    results: dict[str, Path] | list[Path] | Path
    output: OutputFile
    title: str | None = None
    training: dict[str, Path] = field(default_factory=dict)
    labels: dict[str, Path] = field(default_factory=dict)
    examples: dict[str, Path] | Path | None = None
    summary: OutputFile | None = None


def report(config: ReportConfig) -> Path:
    """Runs the stage and returns its output.

    Raises:
        ValueError: a file is not what it should be; the message names it.
    """
    from qstep.data import write_json
    from qstep.report import render_report

    refuse_overwriting(config)
    refuse_foreign("output", config.output, lambda page: begins_with(page, b"<!doctype html>"))
    if config.summary:
        refuse_foreign("summary", config.summary, is_json_with("title", "provenance"))
    results = gathered(_named(config.results))
    results["title"] = config.title or results.get("title", "qstep report")
    if config.training:
        results["training"] = {name: list(_training_log(path)) for name, path in config.training.items()}
    if config.labels:
        results["labels"] = _label_agreement(config.labels)
    results["provenance"] = provenance(asdict(config)) | results["provenance"]
    if config.summary:
        write_json(config.summary, results)
        say_written(config.summary)
    render_report(results, list(_examples(config.examples, config.task)), config.output)
    say_written(config.output)
    return config.output


def gathered(results: Mapping[str, tuple[Path, dict[str, Any]]]) -> dict[str, Any]:
    """What `render_report` shows, from the files of evaluations, of best-of-n, of searches, and of other pages.

    Raises:
        ValueError: a file is none of these, or two evaluations were not of the same problems.
    """
    page: dict[str, Any] = {"policies": {}, "comparisons": {}, "verifiers": {}, "verifier_auc": {}, "provenance": {}}
    page |= {name: {} for name in (*_OF_SCORERS, "steps")}
    evaluations = {name: of for name, (_, of) in results.items() if _is_evaluation(of)}
    choices = {name: of for name, (_, of) in results.items() if "curves" in of}
    judgements = {name: of for name, (_, of) in results.items() if "steps" in of and "threshold" in of}
    searches = {name: of for name, (_, of) in results.items() if "searches" in of and "differences" in of}
    for name, (path, of) in results.items():
        if name in {*evaluations, *choices, *judgements, *searches}:
            if "provenance" in of:
                page["provenance"][name] = {
                    key: of["provenance"][key] for key in ("command", "git_commit", "hardware", "date")
                }
        elif "provenance" in of:
            for key, value in of.items():
                page[key] = page.get(key, {}) | value if isinstance(value, dict) else value
        else:
            raise ValueError(
                f"{path} is no result of `qstep evaluate`, `qstep evaluate processbench`, `qstep best-of-n`, "
                "`qstep compare-search` or `qstep report --summary`"
            )
    for name, of in evaluations.items():
        page["policies"][name] = {mode: of[mode] for mode in of["problems"]}
    page["comparisons"] |= _between_policies(evaluations)
    for name, of in choices.items():
        before = f"{name}: " if len(choices) > 1 else ""
        page["verifiers"] |= {before + method: curve for method, curve in of["curves"].items()}
        page["verifier_auc"] |= {before + scorer: measures for scorer, measures in of["auc"].items()}
        page["comparisons"] |= {before + title: difference for title, difference in _between_choices(of)}
        for part in _OF_SCORERS:
            page[part] |= {before + scorer: value for scorer, value in of.get(part, {}).items()}
    for name, of in judgements.items():
        before = f"{name}: " if len(judgements) > 1 else ""
        page["steps"] |= {before + subset: report for subset, report in of["steps"].items()}
    for name, of in searches.items():
        before = f"{name}: " if len(searches) > 1 else ""
        page["searches"] = page.get("searches", {}) | {before + n: found for n, found in of["searches"].items()}
        # A comparison's two names are those of the searches that it is of.
        page["comparisons"] |= {
            " - ".join(before + n for n in title.split(" - ")): difference
            for title, difference in of["differences"].items()
        }
    return page


def _named(results: dict[str, Path] | list[Path] | Path) -> dict[str, tuple[Path, dict[str, Any]]]:
    """The results by name; a result without one is called as it calls itself, or as its file."""
    if isinstance(results, Path):
        results = [results]
    pairs = list(results.items() if isinstance(results, dict) else ((None, path) for path in results))
    named: dict[str, tuple[Path, dict[str, Any]]] = {}
    for given, path in pairs:
        try:
            of = json.loads(path.read_text())
        except ValueError as error:
            raise ValueError(f"{path} is not JSON: {error}") from error
        if not isinstance(of, dict):
            raise ValueError(f"{path} holds no result, but a {type(of).__name__}")
        name = given or of.get("name") or path.stem
        if name in named:
            raise ValueError(f"{path} and {named[name][0]} are both called {name!r}: name them, --results.NAME FILE")
        named[name] = path, of
    return named


def _is_evaluation(of: Mapping[str, Any]) -> bool:
    return isinstance(of.get("problems"), dict)


def _between_policies(evaluations: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """The first policy against each other one, sampled where both were, else in the first way both were."""
    from qstep.evals import VerdictCounts, policy_difference

    found: dict[str, Any] = {}
    first, *others = evaluations or [""]
    for other in others:
        ours, theirs = evaluations[first]["problems"], evaluations[other]["problems"]
        mode = next((mode for mode in sorted(ours, key=lambda mode: mode != "sampled") if mode in theirs), None)
        if mode is None:
            continue
        counts = [{problem: VerdictCounts(*of) for problem, of in side[mode].items()} for side in (ours, theirs)]
        try:
            found[f"{first} - {other} ({mode})"] = policy_difference(*counts)
        except ValueError as error:
            raise ValueError(f"{first} and {other}: {error}") from error
    return found


def _between_choices(of: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The first scorer against the majority, one response, and each other scorer, at the largest n."""
    from qstep.evals import METHODS

    scorers = [name for name in of["curves"] if name not in METHODS and f"{name}_weighted" in of["curves"]]
    for other in ("majority", "mean", *scorers[1:]) if scorers else ():
        yield f"{scorers[0]}@{max(of['ns'])} - {other}", of["differences"][f"{scorers[0]}_minus_{other}"]


def _training_log(path: Path) -> Iterator[Row]:
    from qstep.data import read_rows

    for line in read_rows(path / "train_log.jsonl" if path.is_dir() else path):
        yield {metric: value for metric, value in line.items() if metric not in _NOT_METRICS}


def _label_agreement(files: Mapping[str, Path]) -> dict[str, Any]:
    """How far Monte-Carlo labels agree with exact ones, of the rows that have both.

    Raises:
        ValueError: another file, a row that the exact file lacks, or one cut into other steps.
    """
    from qstep.data import read_rows
    from qstep.evals import label_agreement

    if set(files) != {"exact", "monte_carlo"}:
        raise ValueError(f"labels are of {sorted(files)}: give two files, exact and monte_carlo")
    rows = list(read_rows(files["monte_carlo"]))
    wanted = {row["id"] for row in rows}
    exact = {row["id"]: row for row in read_rows(files["exact"]) if row["id"] in wanted}
    for row in rows:
        if row["completions"] != exact.get(row["id"], {}).get("completions"):
            raise ValueError(f"{files['exact']} has no row {row['id']!r} with the steps of {files['monte_carlo']}")
    return label_agreement(
        [exact[row["id"]]["labels"] for row in rows],
        [row.get("successes") for row in rows],
        [row.get("trials") for row in rows],
        [row["problem_id"] for row in rows],
    )


def _examples(files: dict[str, Path] | Path | None, task: str) -> Iterator[Row]:
    from qstep.report import choose_examples
    from qstep.tasks import Tasks

    if isinstance(files, Path):
        files = {"verifier": files}
    for name, path in (files or {}).items():
        yield from choose_examples(_scored(path), name, tasks=Tasks(task))


def _scored(path: Path) -> Iterator[Row]:
    """The rows of a graded and scored file; ValueError, naming the row, where one is not."""
    from qstep.data import read_rows

    for row in read_rows(path):
        for column, command in (("verdict", "grade"), ("score", "score")):
            if column not in row:
                raise ValueError(
                    f"--examples {path}: row {row.get('id')!r} has no {column}: run `qstep {command}` on it first"
                )
        yield row
